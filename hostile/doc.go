// Package hostile holds no code: its tests put a Dispatcher with the default
// transport in front of receivers and resolvers that misbehave, on real sockets.
// docs/hostile-receivers.md has the table of what happens.
package hostile
