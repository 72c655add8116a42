// Upstream and load generator of the benchmark, in Go because Python would measure itself. Standard library only.
//
// Both speak HTTP/1.1 by hand: net/http costs more per request than the proxies that are measured. Results are JSON on
// standard output, durations in milliseconds.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const usage = `load upstream   answer until standard input ends
load requests   post as fast as answers come, or at a rate
load streams    open event streams within one second, and read them to their end
load uploads    post large bodies at once, while streams run beside them
load slow       read a large answer slowly, and then to its end
load run        run a command on some cores, and end it with this program's parent`

func main() {
	log.SetFlags(0)
	log.SetPrefix("load: ")
	// A collection stops everything for a moment, which would count as the proxy's delay. There is memory enough.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(512 << 20)
	if len(os.Args) < 2 {
		log.Fatal(usage)
	}
	flags := flag.NewFlagSet("load "+os.Args[1], flag.ExitOnError)
	rest := os.Args[2:]
	switch os.Args[1] {
	case "upstream":
		upstream(flags, rest)
	case "requests":
		report(requests(flags, rest))
	case "streams":
		report(streams(flags, rest))
	case "uploads":
		report(uploads(flags, rest))
	case "slow":
		report(slow(flags, rest))
	case "run":
		run(rest)
	default:
		log.Fatal(usage)
	}
}

func report(figures map[string]float64) {
	if err := json.NewEncoder(os.Stdout).Encode(figures); err != nil {
		log.Fatal(err)
	}
}

// told sends the first few errors to standard error: a count alone says little about what went wrong.
func told(err error) {
	if errorsTold.Add(1) <= 5 {
		fmt.Fprintln(os.Stderr, "load:", err)
	}
}

var errorsTold atomic.Int32

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
