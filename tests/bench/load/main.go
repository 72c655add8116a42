// Upstream and load generator for the benchmark, in Go because Python would measure itself. Standard library only.
//
//	load upstream                              serves until it is killed; prints its address
//	load json URL CONNECTIONS SECONDS          posts as fast as answers come
//	load sse  URL STREAMS EVENTS PER_SECOND    opens all streams within one second, and reads them to their end
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

var question, answer = bytes.Repeat([]byte("y"), 1024), bytes.Repeat([]byte("x"), 2048)

// What one connection saw; times in milliseconds.
type seen struct {
	failed        int
	first, delays []float64
}

func main() {
	switch os.Args[1] {
	case "upstream":
		upstream()
	case "json":
		end := time.Now().Add(time.Duration(number(os.Args[4])) * time.Second)
		run(number(os.Args[3]), func(client *http.Client, _ int) seen { return posts(client, os.Args[2], end) })
	case "sse":
		streams, url := number(os.Args[3]), os.Args[2]+"?events="+os.Args[4]+"&per_second="+os.Args[5]
		run(streams, func(client *http.Client, i int) seen {
			time.Sleep(time.Duration(i) * time.Second / time.Duration(streams))
			return stream(client, url, number(os.Args[4]))
		})
	}
}

func upstream() {
	http.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("content-type", "application/json")
		w.Header().Set("content-length", strconv.Itoa(len(answer)))
		w.Write(answer)
	})
	http.HandleFunc("/sse", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("content-type", "text/event-stream")
		tick := time.NewTicker(time.Second / time.Duration(number(r.URL.Query().Get("per_second"))))
		defer tick.Stop()
		for range number(r.URL.Query().Get("events")) {
			fmt.Fprintf(w, "event: content_block_delta\ndata: %d %s\n\n", time.Now().UnixNano(), answer[:80])
			w.(http.Flusher).Flush()
			<-tick.C
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}

func posts(client *http.Client, url string, end time.Time) (s seen) {
	for began := time.Now(); began.Before(end); began = time.Now() {
		response, err := client.Post(url, "application/json", bytes.NewReader(question))
		if err != nil {
			s.failed++
			continue
		}
		n, err := io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != 200 || n != int64(len(answer)) {
			s.failed++
			continue
		}
		s.delays = append(s.delays, since(began))
	}
	return s
}

func stream(client *http.Client, url string, events int) (s seen) {
	began := time.Now()
	response, err := client.Post(url, "application/json", bytes.NewReader(question))
	if err != nil {
		return seen{failed: 1}
	}
	defer response.Body.Close()
	s.first = []float64{since(began)}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == "data:" {
			s.delays = append(s.delays, since(time.Unix(0, int64(number(fields[1])))))
		}
	}
	if len(s.delays) != events {
		s.failed = 1
	}
	return s
}

// run starts so many connections at once and prints what they saw together.
func run(connections int, work func(*http.Client, int) seen) {
	transport := &http.Transport{MaxIdleConnsPerHost: connections, DisableCompression: true}
	results, began, all := make(chan seen), time.Now(), seen{}
	for i := range connections {
		go func() { results <- work(&http.Client{Transport: transport}, i) }()
	}
	for range connections {
		s := <-results
		all.failed += s.failed
		all.first, all.delays = append(all.first, s.first...), append(all.delays, s.delays...)
	}
	done := float64(len(all.delays))
	json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"done": done, "failed": float64(all.failed), "per_second": done / time.Since(began).Seconds(),
		"p50": quantile(all.delays, 0.5), "p99": quantile(all.delays, 0.99), "first_p99": quantile(all.first, 0.99),
	})
}

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[int(q*float64(len(values)-1))]
}

func since(t time.Time) float64 { return float64(time.Since(t).Nanoseconds()) / 1e6 }

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return n
}
