// Package fluxlyhttp holds the http.Handlers of fluxly, for a program to mount
// where it likes. [Intake] takes events in GetFluxly's wire form into an engine,
// so that browsers, other services and GetFluxly's own SDKs can feed it.
package fluxlyhttp
