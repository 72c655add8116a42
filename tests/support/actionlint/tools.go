//go:build tools

// Package tools names the linter of workflows that `make lint` builds, so that `go mod tidy` keeps what it needs in go.mod.
package tools

import _ "github.com/rhysd/actionlint/cmd/actionlint"
