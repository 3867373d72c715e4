//go:build !linux

package bootstrap

// forgetConnections does nothing: where the engine runs in a virtual machine, a program forwards its ports.
func forgetConnections(int) {}
