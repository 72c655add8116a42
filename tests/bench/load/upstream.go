package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// upstream prints its two addresses, and ends with its standard input.
func upstream(flags *flag.FlagSet, arguments []string) {
	caFile := flags.String("ca-file", "", "where to write the certificate that clients have to trust")
	flags.Parse(arguments)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go accept(plain)
	go accept(tls.NewListener(secure, &tls.Config{Certificates: certificate(*caFile), NextProtos: []string{"http/1.1"}}))
	fmt.Printf(`{"http": "%s", "https": "%s"}`+"\n", plain.Addr(), secure.Addr())
	io.Copy(io.Discard, os.Stdin)
}

func accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			defer conn.Close()
			serve(conn)
		}()
	}
}

// How long a model thinks that answers in one piece.
const lateness = 3 * time.Second

var (
	jsonAnswer, bigAnswer = answer(message(jsonBytes)), answer(message(bigBytes))
	lastAnswer            = bytes.Replace(jsonAnswer, []byte("\r\n"), []byte("\r\nconnection: close\r\n"), 1)
)

// serve answers one request after the other until the client leaves.
func serve(conn net.Conn) {
	r := newReader(conn, 16<<10)
	for {
		beginning, err := request(r)
		if err != nil {
			return
		}
		switch kind, events, perSecond := wanted(beginning); {
		case kind == jsonKind:
			_, err = conn.Write(jsonAnswer)
		case kind == lastKind:
			conn.Write(lastAnswer)
			return
		case kind == lateKind:
			time.Sleep(lateness)
			_, err = conn.Write(jsonAnswer)
		case kind == bigKind:
			_, err = conn.Write(bigAnswer)
		case perSecond > 0:
			err = stream(conn, events, perSecond)
		default:
			text := "what kind of answer?"
			fmt.Fprintf(conn, "HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%s", len(text), text)
		}
		if err != nil {
			return
		}
	}
}

// request reads a whole request, and returns the beginning of its body. Nothing is answered before its end is there.
func request(r *reader) ([]byte, error) {
	head, err := r.head()
	if err != nil {
		return nil, err
	}
	f, err := framingOf(head)
	if err != nil {
		return nil, err
	}
	if f.length < 0 {
		fmt.Fprint(r.conn, "HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
		return nil, errors.New("a body without a length")
	}
	if f.length > len(r.buffer) {
		r.grow(256 << 10)
	}
	for whole := min(f.length, 512); r.end-r.begin < whole; {
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
	b := body{reader: r, left: f.length}
	beginning, err := b.next()
	if err == nil && b.left > 0 {
		beginning = append([]byte(nil), beginning[:512]...)
	}
	for err == nil && b.left > 0 {
		_, err = b.next()
	}
	return beginning, err
}

// stream sends a whole message; each of its deltas carries the time at which it is sent.
func stream(conn net.Conn, events, perSecond int) error {
	began, period := time.Now(), time.Second/time.Duration(perSecond)
	if _, err := conn.Write(append([]byte(streamHead), chunk(streamStart())...)); err != nil {
		return err
	}
	piece := chunk(delta())
	stamp := strings.Index(string(piece), stampMark) + len(stampMark)
	for i := range events {
		time.Sleep(time.Until(began.Add(time.Duration(i) * period)))
		strconv.AppendInt(piece[:stamp], time.Now().UnixNano(), 10)
		if _, err := conn.Write(piece); err != nil {
			return err
		}
	}
	_, err := conn.Write(append(chunk(streamEnd()), "0\r\n\r\n"...))
	return err
}
