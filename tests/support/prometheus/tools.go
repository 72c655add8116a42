//go:build tools

// Package tools names the commands that the tests run, so that `go mod tidy` keeps what it needs in go.mod.
// For another version: `go get github.com/prometheus/prometheus@v0.N.P && go mod tidy` in this folder.
package tools

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
