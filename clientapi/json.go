// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"bufio"
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"net/http"
	"strconv"
	"time"

	"tarn/matrix"
)

// Patience with a client that does not send the body it announced, or does not take its answer: so long, and a second
// more for each 8 KiB, as little as a bad circuit through Tor carries.
const (
	bodyTimeout  = 30 * time.Second
	writeTimeout = 60 * time.Second
	slowest      = 8 << 10 // bytes a second
)

// patience is the time by which n bytes should have gone over.
func patience(least time.Duration, n int64) time.Time {
	return time.Now().Add(least + time.Duration(max(n, 0)/slowest)*time.Second)
}

// empty is the body of many answers: {}.
type empty struct{}

// What events hold was checked when they came in.
var asTheyAre = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// large is an answer that may be too long to lie in memory a second time, as bytes.
type large interface {
	size() int64 // about, in bytes
}

// wholeAnswer is how long an answer may be to be made before any of it is sent.
const wholeAnswer = 1 << 20

// writeJSON answers. An answer that cannot be written is the client's loss: there is nobody to tell.
func writeJSON(w http.ResponseWriter, status int, v any) {
	if l, ok := v.(large); ok {
		if n := l.size(); n > wholeAnswer {
			writeLarge(w, status, v, n)
			return
		}
	}
	var b []byte
	if raw, ok := v.(jsontext.Value); ok {
		b = raw
	} else {
		var err error
		if b, err = json.Marshal(v, asTheyAre); err != nil {
			status, b = http.StatusInternalServerError, []byte(`{"errcode":"M_UNKNOWN","error":"internal server error"}`)
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	_ = http.NewResponseController(w).SetWriteDeadline(patience(writeTimeout, int64(len(b))))
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// writeLarge sends an answer while it is made. Should that fail in the middle, the connection ends there: the client sees that the
// answer is not whole.
func writeLarge(w http.ResponseWriter, status int, v any, size int64) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	_ = http.NewResponseController(w).SetWriteDeadline(patience(writeTimeout, size))
	w.WriteHeader(status)
	b := bufio.NewWriterSize(w, 64<<10)
	if json.MarshalWrite(b, v, asTheyAre) != nil || b.Flush() != nil {
		panic(http.ErrAbortHandler)
	}
}

// body reads the request's body, its route's limit at most.
func (c *call) body() ([]byte, error) {
	tooLarge := &Error{Status: http.StatusRequestEntityTooLarge, Code: matrix.ErrcodeTooLarge, Text: "the request is too large"}
	if c.r.ContentLength > c.limit {
		return nil, tooLarge
	}
	var b bytes.Buffer
	if n := c.r.ContentLength; n > 0 {
		b.Grow(int(n) + bytes.MinRead)
	}
	_, err := b.ReadFrom(http.MaxBytesReader(c.w, c.r.Body, c.limit))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return nil, tooLarge
	case err != nil:
		return nil, &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeUnknown, Text: "the request's body did not arrive whole"}
	}
	// All of it is here: from now on the connection only tells whether its client is still there.
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	return b.Bytes(), nil
}

// maxDepth of a body. What is in an event or a message goes to other people's clients, and some of them (those in Python, or with serde) fail
// at a whole /sync answer for one value that is nested too deep.
const maxDepth = 100

// deep says whether JSON is nested deeper than maxDepth. Of what is no JSON it may say anything.
func deep(b []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

func tooDeep() *Error {
	return badJSON("the body is nested deeper than " + strconv.Itoa(maxDepth) + " levels")
}

// object reads the body as it is: a JSON object without double names.
func (c *call) object() (jsontext.Value, error) {
	b, err := c.body()
	if err != nil {
		return nil, err
	}
	v := jsontext.Value(bytes.TrimSpace(b))
	if !v.IsValid() {
		return nil, notJSON()
	}
	if deep(v) {
		return nil, tooDeep()
	}
	if v.Kind() != '{' {
		return nil, badJSON("the body must be a JSON object")
	}
	return v, nil
}

// decode reads the body into v. An empty body is as good as {} : clients leave it out where all is optional.
func (c *call) decode(v any) error {
	b, err := c.body()
	if err != nil {
		return err
	}
	if deep(b) && jsontext.Value(b).IsValid() {
		return tooDeep()
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	return decode(b, v)
}

// decode tells what is no JSON (M_NOT_JSON) from what has other types than are asked for (M_BAD_JSON).
func decode(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	if err == nil {
		return nil
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) && jsontext.Value(b).IsValid() { // a wrong type may stand before the place where it ceases to be JSON
		if semantic.JSONPointer != "" {
			return badJSON("wrong type at " + string(semantic.JSONPointer))
		}
		return badJSON("the body must be a JSON object")
	}
	return notJSON()
}

func notJSON() *Error {
	return &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeNotJSON, Text: "the body is not JSON"}
}

func badJSON(text string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeBadJSON, Text: text}
}
