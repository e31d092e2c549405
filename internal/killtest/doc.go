// Package killtest has no code but its tests: they kill programs that run an
// engine, at random moments, and look at what is left.
package killtest
