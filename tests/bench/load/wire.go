package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

var (
	headEnd = []byte("\r\n\r\n")
	lineEnd = []byte("\r\n")
)

// reader reads HTTP/1.1 from a connection. What it returns lies in its buffer and is good until the next call.
type reader struct {
	conn       net.Conn
	buffer     []byte
	begin, end int
	filledAt   time.Time // when the last bytes came
}

func newReader(conn net.Conn, size int) *reader {
	return &reader{conn: conn, buffer: make([]byte, size)}
}

func (r *reader) unread() []byte { return r.buffer[r.begin:r.end] }

// fill waits for more bytes, and is only called when more are needed than are there.
func (r *reader) fill() error {
	if r.begin == r.end {
		r.begin, r.end = 0, 0
	} else if r.end == len(r.buffer) {
		if r.begin == 0 {
			return errors.New("a head or a line that is too long")
		}
		r.end = copy(r.buffer, r.unread())
		r.begin = 0
	}
	n, err := r.conn.Read(r.buffer[r.end:])
	r.filledAt = time.Now()
	r.end += n
	if n > 0 {
		return nil
	}
	return err
}

// grow makes room for large reads.
func (r *reader) grow(size int) {
	larger := make([]byte, max(size, len(r.buffer)))
	r.end = copy(larger, r.unread())
	r.begin, r.buffer = 0, larger
}

// head returns a request's or an answer's head, with the empty line that ends it.
func (r *reader) head() ([]byte, error) {
	for {
		if i := bytes.Index(r.unread(), headEnd); i >= 0 {
			head := r.unread()[:i+len(headEnd)]
			r.begin += len(head)
			return head, nil
		}
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
}

// framing is what a head says about its body.
type framing struct {
	length           int // -1: not said
	chunked, closing bool
}

func framingOf(head []byte) (framing, error) {
	f := framing{length: -1}
	for line := range bytes.SplitSeq(head, lineEnd) {
		if len(line) == 0 || line[0]|0x20 != 'c' && line[0]|0x20 != 't' {
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("content-length")):
			n, err := strconv.Atoi(string(value))
			if err != nil || f.length >= 0 {
				return f, fmt.Errorf("not one content-length: %q", line)
			}
			f.length = n
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			f.chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("connection")):
			f.closing = bytes.EqualFold(value, []byte("close"))
		}
	}
	return f, nil
}

// answerHead reads the head of an answer, which must be a 200.
func (r *reader) answerHead() (*body, error) {
	head, err := r.head()
	if err != nil {
		return nil, fmt.Errorf("no answer: %w", err)
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return nil, fmt.Errorf("the answer is %q", head[:bytes.IndexByte(head, '\r')])
	}
	f, err := framingOf(head)
	if err == nil && f.chunked == (f.length >= 0) {
		err = fmt.Errorf("the answer has no length, or two: %q", head)
	}
	return &body{framing: f, reader: r, left: max(0, f.length)}, err
}

// body is an answer's or a request's body, piece by piece as it comes.
type body struct {
	framing
	reader *reader
	left   int  // bytes of the body, or of the current chunk
	inside bool // a chunk, whose line end is still to come
}

// next returns io.EOF after the last piece; an end that comes too early is an error of its own.
func (b *body) next() ([]byte, error) {
	r := b.reader
	if b.left == 0 && b.chunked {
		if err := b.nextChunk(); err != nil {
			return nil, err
		}
	}
	if b.left == 0 {
		return nil, io.EOF
	}
	if r.begin == r.end {
		if err := r.fill(); err != nil {
			return nil, fmt.Errorf("the body ended too early: %w", noEOF(err))
		}
	}
	piece := r.unread()[:min(b.left, r.end-r.begin)]
	r.begin += len(piece)
	b.left -= len(piece)
	return piece, nil
}

func (b *body) nextChunk() error {
	if b.inside {
		if line, err := b.line(); err != nil || len(line) > 0 {
			return fmt.Errorf("after a chunk: %q, %w", line, noEOF(err))
		}
	}
	line, err := b.line()
	if err != nil {
		return fmt.Errorf("the body ended too early: %w", noEOF(err))
	}
	size, err := strconv.ParseUint(string(line), 16, 31)
	if err != nil {
		return err
	}
	b.left, b.inside = int(size), true
	if size == 0 {
		if line, err := b.line(); err != nil || len(line) > 0 {
			return fmt.Errorf("after the last chunk: %q, %w", line, noEOF(err))
		}
	}
	return nil
}

func (b *body) line() ([]byte, error) {
	for {
		if i := bytes.Index(b.reader.unread(), lineEnd); i >= 0 {
			line := b.reader.unread()[:i]
			b.reader.begin += i + len(lineEnd)
			return line, nil
		}
		if err := b.reader.fill(); err != nil {
			return nil, err
		}
	}
}

// noEOF keeps a connection's end from looking like a body's.
func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
