// SPDX-License-Identifier: Apache-2.0

package push

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"sync"

	"tarn/matrix"
)

// Texts keeps what judges read of the last events that they judged: one message to a crowd is read once, not once for each of them.
// The zero value is ready. Safe for concurrent use.
type Texts struct {
	mu          sync.Mutex // for moments
	now, before map[matrix.EventID]*text
	size        int // bytes of memory in now, as estimated
}

// maxTexts bounds what Texts keeps, in bytes as estimated: twice as much at most.
const (
	maxTexts = 1 << 20
	textCost = 1 << 10 // of an entry and its event beside the content, which takes some times its length
)

// text is the content of an event.
type text struct {
	raw     []byte
	once    sync.Once
	content map[string]any
	folded  []rune // content.body
}

// of finds an event's text.
func (t *Texts) of(e *matrix.Event) *text {
	if t == nil {
		return &text{raw: e.Content()}
	}
	id, raw := e.ID(), e.Content()
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.now[id]
	if x != nil && bytes.Equal(x.raw, raw) { // an event may come redacted, or whole after it was spoilt
		return x
	}
	if x = t.before[id]; x == nil || !bytes.Equal(x.raw, raw) {
		x = &text{raw: raw}
	}
	cost := textCost + 5*len(raw)
	if t.size += cost; t.now == nil || t.size > maxTexts {
		t.now, t.before, t.size = map[matrix.EventID]*text{}, t.now, cost
	}
	t.now[id] = x
	return x
}

func (x *text) read() *text {
	x.once.Do(func() {
		if json.Unmarshal(x.raw, &x.content, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
			x.content = nil
		}
		if s, ok := x.content["body"].(string); ok {
			x.folded = folded(s)
		}
	})
	return x
}
