package view

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// Child is the one run that was started from the page.
type Child struct {
	// Command is mllab with these arguments, for the same lab.
	Command func(args ...string) *exec.Cmd

	mu    sync.Mutex
	state State
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{}
}

// State says what became of the run that was started from the page.
type State struct {
	Scenario string `json:"scenario"` // empty: none was started
	Running  bool   `json:"running"`
	Stopping bool   `json:"stopping"`
	Steps    bool   `json:"steps"` // it waits for a person before each step
	Error    string `json:"error"` // of its end
}

// State returns the state of this moment.
func (c *Child) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Start starts a scenario, or its controls. With step it waits for Next before each
// change.
func (c *Child) Start(scenario string, controls, step bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Running {
		return errors.New(c.state.Scenario + " runs already")
	}
	args := []string{"scenario", scenario}
	if controls {
		args = append(args, "--controls")
	}
	if step {
		args = append(args, "--explain")
	}
	cmd := c.Command(args...)
	var talk bytes.Buffer
	cmd.Stderr = &talk
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", scenario, err)
	}
	ended := make(chan struct{})
	c.cmd, c.in, c.ended, c.state = cmd, in, ended, State{Scenario: scenario, Running: true, Steps: step}
	go func() {
		defer close(ended)
		err := cmd.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.state.Running, c.state.Stopping = false, false
		if err != nil {
			c.state.Error = lastError(talk.String(), err)
		}
	}()
	return nil
}

func lastError(talk string, err error) string {
	i := strings.LastIndex(talk, "error: ")
	if i < 0 {
		return err.Error()
	}
	return strings.TrimSpace(talk[i:])
}

// Next goes on with the step that waits.
func (c *Child) Next() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.Running || !c.state.Steps {
		return errors.New("no run of this page waits")
	}
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	return nil
}

// Stop interrupts the run, which then cleans up.
func (c *Child) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.Running {
		return errors.New("no run of this page runs")
	}
	if c.state.Stopping { // a second interrupt would keep it from cleaning up
		return errors.New(c.state.Scenario + " cleans up")
	}
	c.state.Stopping = true
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		return fmt.Errorf("stopping %s: %w", c.state.Scenario, err)
	}
	return nil
}

// Close stops the run, if any, and returns when it has cleaned up.
func (c *Child) Close() {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended == nil {
		return
	}
	_ = c.Stop() // it may have ended meanwhile
	<-ended
}
