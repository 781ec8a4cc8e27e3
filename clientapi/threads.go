// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"errors"
	"net/http"

	"github.com/tidwall/gjson"

	"tarn/account"
	"tarn/matrix"
	"tarn/store"
)

// Subscriptions to threads (MSC4306), and what sliding sync tells of them (MSC4308): not in the spec yet. Element X asks /versions for them.
const (
	threadPath  = "/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{event}/subscription"
	threadsPath = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"
)

// Changes of subscriptions in one answer.
const (
	defaultThreads = 100
	maxThreads     = 512
)

// thread reads the path's thread: its root must be an event that the user may see.
func (a *API) thread(c *call) (matrix.RoomID, matrix.EventID, error) {
	r, root, err := c.roomEvent()
	if err != nil {
		return r, root, err
	}
	_, err = a.rooms.Event(c.who.User, r, root)
	return r, root, hidden(err)
}

// threadSubscription: GET of threadPath.
func (a *API) threadSubscription(c *call) (any, error) {
	r, root, err := a.thread(c)
	if err != nil {
		return nil, err
	}
	t, err := a.accounts.Thread(c.who.User, r, root)
	if err != nil {
		return nil, err
	}
	if !t.Subscribed {
		return nil, notFound("you are not subscribed to this thread")
	}
	return map[string]bool{"automatic": t.Automatic}, nil
}

// subscribeThread: PUT of threadPath. automatic names the event in the thread for which a client subscribes by itself; where the user
// unsubscribed since that came, it does not.
func (a *API) subscribeThread(c *call) (any, error) {
	var q struct {
		Automatic matrix.EventID `json:"automatic"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	r, root, err := a.thread(c)
	if err != nil {
		return nil, err
	}
	var cause store.Pos
	if q.Automatic != "" {
		e, err := a.rooms.Event(c.who.User, r, q.Automatic)
		if err != nil {
			return nil, hidden(err)
		}
		to := gjson.GetBytes(e.Content(), `m\.relates_to`)
		if to.Get("rel_type").Str != matrix.RelThread || to.Get("event_id").Str != string(root) {
			return nil, &Error{Status: http.StatusBadRequest, Code: "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", Text: "that event is not in the thread"}
		}
		cause = max(e.Pos, 1)
	}
	err = a.accounts.Subscribe(c.who.User, r, root, cause)
	if errors.Is(err, account.ErrUnsubscribed) {
		return nil, &Error{Status: http.StatusConflict, Code: "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", Text: "you unsubscribed from the thread after that event"}
	}
	return empty{}, err
}

// unsubscribeThread: DELETE of threadPath.
func (a *API) unsubscribeThread(c *call) (any, error) {
	r, root, err := a.thread(c)
	if err != nil {
		return nil, err
	}
	return empty{}, a.accounts.Unsubscribe(c.who.User, r, root)
}

// followed is a thread's entry in an answer. bump_stamp lets clients see which of two changes is the later.
type followed struct {
	Automatic *bool     `json:"automatic,omitzero"` // nil: unsubscribed
	Bump      store.Pos `json:"bump_stamp"`
}

type followedThreads struct {
	Subscribed   map[matrix.RoomID]map[matrix.EventID]followed `json:"subscribed,omitempty"`
	Unsubscribed map[matrix.RoomID]map[matrix.EventID]followed `json:"unsubscribed,omitempty"`
	Prev         string                                        `json:"prev_batch,omitzero"` // of sliding sync: there are older ones
	End          string                                        `json:"end,omitzero"`        // the same of GET
}

// followedThreads lists changes in (since, upTo]; older: a token for those that did not fit.
func (a *API) followedThreads(user matrix.UserID, since, upTo store.Pos, limit int64) (out followedThreads, older string, err error) {
	list, more, err := a.accounts.Threads(user, since, upTo, int(min(limit, maxThreads)))
	if err != nil {
		return out, "", err
	}
	for i := range list {
		t := &list[i]
		to, entry := &out.Unsubscribed, followed{Bump: t.Pos}
		if t.Subscribed {
			to, entry.Automatic = &out.Subscribed, &t.Automatic
		}
		if *to == nil {
			*to = map[matrix.RoomID]map[matrix.EventID]followed{}
		}
		if (*to)[t.Room] == nil {
			(*to)[t.Room] = map[matrix.EventID]followed{}
		}
		(*to)[t.Room][t.Root] = entry
	}
	if more {
		older = token(list[0].Pos - 1)
	}
	return out, older, nil
}

// threadSubscriptions: GET of threadsPath?dir=b&from=&to=&limit=: what sliding sync left out. to may be a pos of sliding sync, which is of a
// connection: then everything older is given, and clients see by bump_stamp what they have.
func (a *API) threadSubscriptions(c *call) (any, error) {
	if c.query("dir") != "b" {
		return nil, invalid("dir must be b")
	}
	limit, err := c.queryInt("limit", defaultThreads)
	if err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, invalid("limit must be above 0")
	}
	upTo := a.stream.Current()
	if s := c.query("from"); s != "" {
		if upTo, err = parseToken(s); err != nil {
			return nil, err
		}
	}
	since, err := parseToken(c.query("to"))
	if err != nil {
		since = 0
	}
	out, older, err := a.followedThreads(c.who.User, since, upTo, limit)
	out.End = older
	return out, err
}

// threads is the extension of sliding sync.
func (s *slide) threads() error {
	x := &s.q.Extensions.Threads
	if !x.Enabled {
		return nil
	}
	limit := int64(defaultThreads)
	if x.Limit > 0 {
		limit = x.Limit
	}
	out, older, err := s.a.followedThreads(s.c.who.User, s.was.Since, s.upTo, limit)
	if err != nil {
		return err
	}
	if out.Prev = older; len(out.Subscribed)+len(out.Unsubscribed) > 0 {
		s.out.Extensions.Threads = &out
	}
	return nil
}
