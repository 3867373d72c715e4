package store

// The published module is for Kubernetes 0.35's libraries. Those of 0.36 tell a
// store up to which resource version it is current. Only Argo's server, which
// this lab does not run, reads this store, and it asks for no such version.

// Bookmark does nothing: the store keeps no resource version.
func (s *SQLiteStore) Bookmark(string) {}

// LastStoreSyncResourceVersion returns that no resource version is known.
func (s *SQLiteStore) LastStoreSyncResourceVersion() string { return "" }
