package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"time"
)

// slow clients take a little of a large answer at a time for some seconds, and then the rest as fast as they can.
func slow(flags *flag.FlagSet, arguments []string) map[string]float64 {
	to := targetFlags(flags)
	clients := flags.Int("clients", 100, "")
	seconds := flags.Float64("seconds", 3, "of reading slowly")
	to.parse(flags, arguments)

	began := time.Now()
	until := began.Add(time.Duration(*seconds * float64(time.Second)))
	results := make(chan error)
	for i := range *clients {
		go func() { results <- readSlowly(to, i, until) }()
	}
	failed := 0
	for range *clients {
		if err := <-results; err != nil {
			told(err)
			failed++
		}
	}
	return map[string]float64{"done": float64(*clients - failed), "failed": float64(failed)}
}

func readSlowly(to *target, i int, until time.Time) error {
	conn, err := to.dial(until.Add(60 * time.Second))
	if err != nil {
		return err
	}
	defer conn.Close()
	// The kernel must not read ahead what this client does not want yet.
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetReadBuffer(32 << 10)
	}
	if _, err := conn.Write(question(to, bigKind, i, 1024)); err != nil {
		return err
	}
	r := newReader(conn, 16<<10)
	answer, err := r.answerHead()
	if err != nil {
		return err
	}
	for total := 0; ; {
		piece, err := answer.next()
		if errors.Is(err, io.EOF) && total == bigBytes {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", total, bigBytes, err)
		}
		total += len(piece)
		if time.Now().Before(until) {
			time.Sleep(100 * time.Millisecond)
		}
	}
}
