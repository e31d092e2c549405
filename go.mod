module github.com/getfluxly/fluxly

go 1.26.0
