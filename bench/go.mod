module github.com/getfluxly/fluxly/bench

go 1.26.0

require (
	github.com/emersion/go-message v0.18.2
	github.com/getfluxly/fluxly v0.0.0
	gopkg.in/gomail.v2 v2.0.0-20160411212932-81ebce5c23df
)

require (
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	gopkg.in/alexcesaro/quotedprintable.v3 v3.0.0-20150716171945-2caba252f4dc // indirect
)

replace github.com/getfluxly/fluxly => ../
