package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"
)

// client is one connection's worth of requests.
type client struct {
	*target
	question, wanted []byte
	deadline         time.Time
	period           time.Duration // between two requests; 0: the next one at once
	offset           time.Duration // of the first request
	reader           *reader
	durations        []time.Duration
	failed           int
}

func requests(flags *flag.FlagSet, arguments []string) map[string]float64 {
	to := targetFlags(flags)
	connections := flags.Int("connections", 32, "at once")
	seconds := flags.Float64("seconds", 3, "")
	rate := flags.Float64("rate", 0, "requests per second of all connections together; 0: as fast as answers come")
	bodyBytes := flags.Int("body-bytes", 1024, "length of each request's body")
	last := flags.Bool("last", false, "each on a connection of the upstream's own, which ends with it")
	to.parse(flags, arguments)

	kind := jsonKind
	if *last {
		kind = lastKind
	}
	began := time.Now()
	end := began.Add(time.Duration(*seconds * float64(time.Second)))
	clients := make([]*client, *connections)
	done := make(chan bool)
	for i := range clients {
		c := &client{
			target: to, question: question(to, kind, i, *bodyBytes),
			wanted: message(jsonBytes), deadline: end.Add(30 * time.Second),
		}
		if *rate > 0 {
			c.period = time.Duration(float64(*connections) / *rate * float64(time.Second))
			c.offset = c.period * time.Duration(i) / time.Duration(*connections)
		}
		clients[i] = c
		go func() { c.run(began, end); done <- true }()
	}
	for range clients {
		<-done
	}
	return requestFigures(clients, time.Since(began))
}

func requestFigures(clients []*client, took time.Duration) map[string]float64 {
	var all []time.Duration
	failed := 0
	for _, c := range clients {
		all = append(all, c.durations...)
		failed += c.failed
	}
	result := map[string]float64{
		"done": float64(len(all)), "failed": float64(failed), "per_second": float64(len(all)) / took.Seconds(),
	}
	figures(result, "duration", all)
	return result
}

func (c *client) run(began, end time.Time) {
	for i := 0; ; i++ {
		start := time.Now()
		if c.period > 0 {
			// A request whose time came while the one before it was still running has waited since then. One that
			// only this program's timer was late for has not.
			due := began.Add(c.offset + time.Duration(i)*c.period)
			if start.After(due) && i > 0 {
				start = due
			} else {
				time.Sleep(due.Sub(start))
				start = time.Now()
			}
		}
		if !start.Before(end) {
			break
		}
		if err := c.request(); err != nil {
			told(err)
			c.failed++
			c.close()
			time.Sleep(10 * time.Millisecond)
			continue
		}
		c.durations = append(c.durations, time.Since(start))
	}
	c.close()
}

func (c *client) request() error {
	if c.reader == nil {
		conn, err := c.dial(c.deadline)
		if err != nil {
			return err
		}
		c.reader = newReader(conn, 16<<10)
	}
	if _, err := c.reader.conn.Write(c.question); err != nil {
		return err
	}
	answer, err := c.reader.answerHead()
	if err != nil {
		return err
	}
	if err := expect(answer, c.wanted); err != nil {
		return err
	}
	if answer.closing {
		c.close()
	}
	return nil
}

func (c *client) close() {
	if c.reader != nil {
		c.reader.conn.Close()
		c.reader = nil
	}
}

// expect reads a body to its end, which must be these bytes and no others.
func expect(answer *body, wanted []byte) error {
	for at := 0; ; {
		piece, err := answer.next()
		if errors.Is(err, io.EOF) && at == len(wanted) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at, len(wanted), err)
		}
		if at+len(piece) > len(wanted) || !bytes.Equal(piece, wanted[at:at+len(piece)]) {
			return fmt.Errorf("an answer differs from what was sent after byte %d", at)
		}
		at += len(piece)
	}
}
