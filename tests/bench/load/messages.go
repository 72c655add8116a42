package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// What is asked and answered looks like the messages API, because proxies look into it: model, usage, session, limits.

const (
	// A real one, because there are proxies that look up what it costs.
	model = "claude-sonnet-4-5"

	// What kind of answer is wanted is in the text of the first message.
	kindMark = "bench:"
	jsonKind = kindMark + "json"
	bigKind  = kindMark + "big"
	lateKind = kindMark + "late" // as json, after a while
	lastKind = kindMark + "last" // as json, and the connection ends

	jsonBytes, bigBytes = 2 << 10, 10 << 20

	// In a text delta, before the time at which the upstream sent it, in nanoseconds.
	stampMark   = "sent at "
	stampDigits = 19
)

func streamKind(events, perSecond int) string {
	return fmt.Sprintf("%sstream-%d-%d", kindMark, events, perSecond)
}

// wanted tells the kind of answer from the beginning of a request's body.
func wanted(body []byte) (kind string, events, perSecond int) {
	if i := bytes.Index(body, []byte(kindMark)); i >= 0 {
		word, _, _ := bytes.Cut(body[i:], []byte(" "))
		kind = string(word)
	}
	if numbers, found := strings.CutPrefix(kind, kindMark+"stream-"); found {
		fmt.Sscanf(numbers, "%d-%d", &events, &perSecond)
	}
	return kind, events, perSecond
}

// question is a request as a coding agent sends it: its session is in the body, and in a header on every other connection.
func question(to *target, kind string, connection, bodyBytes int) []byte {
	session := fmt.Sprintf("%08x-0000-4000-8000-%012x", connection, connection)
	body := fmt.Sprintf(`{"model":"%s","max_tokens":1024,"stream":%t,`+
		`"metadata":{"user_id":"user_bench_account__session_%s"},"messages":[`,
		model, strings.HasPrefix(kind, kindMark+"stream"), session)
	const end = `]}`
	for first := true; ; first = false {
		const before, after = `{"role":"user","content":[{"type":"text","text":"`, `"}]}`
		room := min(100_000, bodyBytes-len(body)-len(before)-len(after)-len(end)-1)
		if room <= 0 {
			break
		}
		if !first {
			body += ","
		}
		text := words(room)
		if first {
			text = kind + " " + text[:room-len(kind)-1]
		}
		body += before + text + after
	}
	body += end
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\naccept: application/json\r\n"+
		"authorization: Bearer %s\r\nanthropic-version: 2023-06-01\r\nanthropic-beta: prompt-caching-2024-07-31\r\n"+
		"user-agent: oauth-pool-bench\r\n", to.path, to.address, to.bearer(connection))
	if connection%2 == 0 {
		head += "x-claude-code-session-id: " + session + "\r\n"
	}
	return []byte(head + "content-length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
}

// The answers' heads carry the limit headers that a proxy with accounts has to look at.
const limits = "request-id: req_011CSHoEeqs5C35K2UUqR7Fy\r\n" +
	"anthropic-ratelimit-unified-status: allowed\r\n" +
	"anthropic-ratelimit-unified-representative-claim: five_hour\r\n" +
	"anthropic-ratelimit-unified-reset: 4000000000\r\n" +
	"anthropic-ratelimit-unified-5h-status: allowed\r\n" +
	"anthropic-ratelimit-unified-5h-reset: 4000000000\r\n" +
	"anthropic-ratelimit-unified-5h-utilization: 0.25\r\n" +
	"anthropic-ratelimit-unified-7d-status: allowed\r\n" +
	"anthropic-ratelimit-unified-7d-reset: 4000000000\r\n" +
	"anthropic-ratelimit-unified-7d-utilization: 0.5\r\n"

const tokens = `"usage":{"input_tokens":2095,"cache_creation_input_tokens":0,"cache_read_input_tokens":1024,"output_tokens":503}`

// message is the body of an answer in one piece, of exactly this length.
func message(length int) []byte {
	before := `{"id":"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message","role":"assistant","model":"` + model +
		`","content":[{"type":"text","text":"`
	after := `"}],"stop_reason":"end_turn","stop_sequence":null,` + tokens + `}`
	return []byte(before + words(length-len(before)-len(after)) + after)
}

func answer(body []byte) []byte {
	head := "HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 20:00:00 GMT\r\ncontent-type: application/json\r\n" +
		limits + "content-length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	return append([]byte(head), body...)
}

const streamHead = "HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 20:00:00 GMT\r\ncontent-type: text/event-stream; charset=utf-8\r\n" +
	"cache-control: no-cache\r\n" + limits + "transfer-encoding: chunked\r\n\r\n"

func event(name, members string) string {
	return fmt.Sprintf("event: %s\ndata: {\"type\":\"%s\"%s}\n\n", name, name, members)
}

func streamStart() string {
	return event("message_start", `,"message":{"id":"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message","role":"assistant",`+
		`"model":"`+model+`","content":[],"stop_reason":null,"stop_sequence":null,`+tokens+`}`) +
		event("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`)
}

// delta is an event of 145 bytes with room for the time at which it is sent.
func delta() string {
	return event("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":"`+
		stampMark+strings.Repeat("0", stampDigits)+`..."}`)
}

func streamEnd() string {
	return event("content_block_stop", `,"index":0`) +
		event("message_delta", `,"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":503}`) +
		event("message_stop", "")
}

func chunk(text string) []byte { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(text), text) }

func words(length int) string {
	const some = "the quick brown fox jumps over the lazy dog and "
	return strings.Repeat(some, length/len(some)+1)[:max(0, length)]
}
