package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Events that were sent this long after the first stream opened meet a proxy that opens none any more.
const steadyAfter = 1500 * time.Millisecond

// stream is what one client saw.
type streamSeen struct {
	deltas                  int
	started, counted, ended bool
	first                   time.Duration
	steady, opening         []time.Duration
	rest                    []byte // of an event whose end has not come yet
}

func streams(flags *flag.FlagSet, arguments []string) map[string]float64 {
	to := targetFlags(flags)
	count := flags.Int("streams", 1000, "")
	events := flags.Int("events", 100, "in each stream")
	perSecond := flags.Int("per-second", 20, "events in each stream")
	to.parse(flags, arguments)

	began := time.Now()
	deadline := began.Add(time.Second + time.Duration(*events / *perSecond)*time.Second + 30*time.Second)
	results := make(chan *streamSeen)
	for i := range *count {
		go func() {
			time.Sleep(time.Duration(i) * time.Second / time.Duration(*count))
			ask := question(to, streamKind(*events, *perSecond), i, 1024)
			seen := &streamSeen{}
			err := seen.read(to, ask, deadline, began.Add(steadyAfter))
			if err == nil {
				err = seen.verify(*events)
			}
			if err != nil {
				told(fmt.Errorf("stream %d: %w", i, err))
				seen = nil
			}
			results <- seen
		}()
	}
	return streamFigures(*count, results, began)
}

func streamFigures(count int, results chan *streamSeen, began time.Time) map[string]float64 {
	var first, steady, opening []time.Duration
	failed := 0
	for range count {
		seen := <-results
		if seen == nil {
			failed++
			continue
		}
		first, steady, opening = append(first, seen.first), append(steady, seen.steady...), append(opening, seen.opening...)
	}
	done := len(steady) + len(opening)
	result := map[string]float64{
		"done": float64(done), "failed": float64(failed), "per_second": float64(done) / time.Since(began).Seconds(),
	}
	figures(result, "first_byte", first)
	figures(result, "delay", steady)
	figures(result, "opening_delay", opening)
	return result
}

func (s *streamSeen) read(to *target, ask []byte, deadline, steadyFrom time.Time) error {
	start := time.Now()
	conn, err := to.dial(deadline)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(ask); err != nil {
		return err
	}
	r := newReader(conn, 8<<10)
	if err := r.fill(); err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	s.first = r.filledAt.Sub(start)
	answer, err := r.answerHead()
	if err != nil {
		return err
	}
	for {
		piece, err := answer.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.take(piece, r.filledAt, steadyFrom)
		}
		if err != nil {
			return fmt.Errorf("after %d events: %w", s.deltas, err)
		}
	}
}

// take counts the events in a piece of the body. Proxies may cut and join the upstream's pieces as they like.
func (s *streamSeen) take(piece []byte, at, steadyFrom time.Time) error {
	if len(s.rest) > 0 {
		s.rest = append(s.rest, piece...)
		piece = s.rest
	}
	for {
		event, more, whole := bytes.Cut(piece, []byte("\n\n"))
		if !whole {
			s.rest = append(s.rest[:0], piece...)
			return nil
		}
		if err := s.takeEvent(event, at, steadyFrom); err != nil {
			return err
		}
		piece = more
	}
}

func (s *streamSeen) takeEvent(event []byte, at, steadyFrom time.Time) error {
	name, _, _ := bytes.Cut(event, []byte("\n"))
	switch string(name) {
	case "event: content_block_delta":
		_, rest, _ := bytes.Cut(event, []byte(stampMark))
		if len(rest) < stampDigits {
			return fmt.Errorf("an event without its time: %q", event)
		}
		stamp, err := strconv.ParseInt(string(rest[:stampDigits]), 10, 64)
		if err != nil {
			return err
		}
		s.deltas++
		delay := time.Duration(at.UnixNano() - stamp)
		if stamp >= steadyFrom.UnixNano() {
			s.steady = append(s.steady, delay)
		} else {
			s.opening = append(s.opening, delay)
		}
	case "event: message_start":
		s.started = true
	case "event: message_delta":
		s.counted = bytes.Contains(event, []byte(`"output_tokens":503`))
	case "event: message_stop":
		s.ended = true
	case "event: error":
		return fmt.Errorf("%q", event)
	}
	return nil
}

func (s *streamSeen) verify(events int) error {
	if s.deltas != events || !s.started || !s.counted || !s.ended || len(s.rest) > 0 {
		return fmt.Errorf("%d of %d events, start %t, usage %t, end %t, %d bytes too many",
			s.deltas, events, s.started, s.counted, s.ended, len(s.rest))
	}
	return nil
}
