// Package fluxly sends behaviour-triggered lifecycle email from inside a Go
// program.
package fluxly
