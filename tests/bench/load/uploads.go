package main

import (
	"flag"
	"fmt"
	"time"
)

// uploads post large bodies at once to an upstream that is late with its answers, while streams run beside them.
func uploads(flags *flag.FlagSet, arguments []string) map[string]float64 {
	to := targetFlags(flags)
	count := flags.Int("uploads", 30, "at once")
	bodyBytes := flags.Int("body-bytes", 8<<20, "length of each body")
	streamCount := flags.Int("streams", 50, "beside them")
	perSecond := flags.Int("per-second", 20, "events in each stream")
	seconds := flags.Int("seconds", 30, "that the streams run; the uploads have to be over by then")
	to.parse(flags, arguments)

	began := time.Now()
	deadline := began.Add(time.Duration(*seconds+30) * time.Second)
	ask := question(to, lateKind, 1, *bodyBytes)
	results := make(chan *streamSeen)
	for i := range *streamCount {
		go func() {
			time.Sleep(time.Duration(i) * time.Second / time.Duration(*streamCount))
			seen := &streamSeen{}
			events := *seconds * *perSecond
			err := seen.read(to, question(to, streamKind(events, *perSecond), i, 1024), deadline, began.Add(steadyAfter))
			if err == nil {
				err = seen.verify(events)
			}
			if err != nil {
				told(fmt.Errorf("stream %d: %w", i, err))
				seen = nil
			}
			results <- seen
		}()
	}
	time.Sleep(steadyAfter)
	answered := make(chan error)
	for range *count {
		go func() {
			c := &client{target: to, question: ask, wanted: message(jsonBytes), deadline: deadline}
			defer c.close()
			answered <- c.request()
		}()
	}
	refused := 0
	for range *count {
		if err := <-answered; err != nil {
			told(fmt.Errorf("upload: %w", err))
			refused++
		}
	}
	took := time.Since(began) - steadyAfter
	figures := streamFigures(*streamCount, results, began)
	figures["uploads_seconds"] = took.Seconds()
	figures["failed"] += float64(refused)
	return figures
}
