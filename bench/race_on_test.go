//go:build race

package bench

// underRace: the race detector makes a time mean nothing.
const underRace = true
