package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// target is where load goes: the upstream itself, or a proxy before it.
type target struct {
	address, path, bearers, caFile string
	trust                          *tls.Config
}

func targetFlags(flags *flag.FlagSet) *target {
	t := &target{}
	flags.StringVar(&t.address, "to", "", "host:port")
	flags.StringVar(&t.path, "path", "/v1/messages", "of every request")
	flags.StringVar(&t.bearers, "bearer", "none", "the token of every request; of several, with commas, connections take turns")
	flags.StringVar(&t.caFile, "ca-file", "", "speak TLS and trust this")
	return t
}

func (t *target) parse(flags *flag.FlagSet, arguments []string) {
	flags.Parse(arguments)
	if t.caFile == "" {
		return
	}
	text, err := os.ReadFile(t.caFile)
	if err != nil {
		log.Fatal(err)
	}
	t.trust = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
	t.trust.RootCAs.AppendCertsFromPEM(text)
}

// bearer is the token of a connection's requests.
func (t *target) bearer(connection int) string {
	all := strings.Split(t.bearers, ",")
	return all[connection%len(all)]
}

// dial opens a connection that nothing may wait for after the deadline.
func (t *target) dial(deadline time.Time) (net.Conn, error) {
	conn, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", t.address)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(deadline)
	if t.trust != nil {
		return tls.Client(conn, t.trust), nil
	}
	return conn, nil
}

// figures adds a few quantiles of the durations, in milliseconds.
func figures(all map[string]float64, name string, durations []time.Duration) {
	slices.Sort(durations)
	for suffix, quantile := range map[string]float64{"_p50": 0.5, "_p99": 0.99, "_max": 1} {
		if n := len(durations); n > 0 {
			all[name+suffix] = milliseconds(durations[int(quantile*float64(n-1))])
		}
	}
}
