// Package bench holds the measurements of fluxly against what a program would
// use instead, in the same run. It is a module of its own, so that the peers
// are not dependencies of fluxly. README.md says how to run each and what came
// out.
package bench
