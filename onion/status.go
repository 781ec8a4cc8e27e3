// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn/crypto/onionid"
)

// State is how far tor is.
type State string

// The states, in the order of a start.
const (
	StateOff           State = "off"           // the configuration says so, or Run has not begun or has ended
	StateStarting      State = "starting"      // the process is coming up, or the control port is being asked
	StateBootstrapping State = "bootstrapping" // tor connects to its network
	StateReady         State = "ready"         // dials are possible
	StateFailed        State = "failed"        // no tor; another try follows by itself
)

// Reason is what is in the way, as far as is known. Advice says what a person can do.
type Reason string

// The reasons.
const (
	ReasonNone       Reason = ""
	ReasonClock      Reason = "clock"       // the clock is wrong: tor cannot tell which directory is valid
	ReasonNoRoute    Reason = "no-route"    // no connection leaves this computer, or none reaches a relay
	ReasonBridges    Reason = "bridges"     // bridges do not answer, or their helper program is missing
	ReasonTorMissing Reason = "tor-missing" // no tor program
	ReasonTorOld     Reason = "tor-old"     // older than 0.4.8
	ReasonTorExited  Reason = "tor-exited"  // the process ended: Detail has its last words
	ReasonControl    Reason = "control"     // the control port does not let us in, or does not answer
	ReasonDisk       Reason = "disk"        // the data directory cannot be used
)

// Advice is a sentence for the person at the computer; "" for ReasonNone.
func (r Reason) Advice() string {
	switch r {
	case ReasonNone:
		return ""
	case ReasonClock:
		return "Check this computer's clock."
	case ReasonNoRoute:
		return "Check this computer's internet connection; if Tor is blocked here, configure bridges."
	case ReasonBridges:
		return "Check the bridges in the configuration, or get new ones from bridges.torproject.org."
	case ReasonTorMissing:
		return "Install tor (Debian: apt-get install tor), or name the program in the configuration."
	case ReasonTorOld:
		return "Install a newer tor: 0.4.9.11 or later."
	case ReasonTorExited:
		return "See what tor said; if it names an option, correct it in the configuration."
	case ReasonControl:
		return "Check the address of tor's control port, and that this user may read its cookie."
	case ReasonDisk:
		return "Check the free space and the owner of the data directory."
	}
	return "See the log."
}

// Status is a picture of tor at one moment.
type Status struct {
	Mode     Mode
	State    State
	Percent  int       // of the bootstrap, 0..100
	Tag      string    // tor's name of the step, for instance "loading_descriptors"
	Summary  string    // a sentence for people
	Reason   Reason    // what is in the way; also set while tor goes on trying
	Detail   string    // more about it, in tor's words or ours; may name files of this computer
	Warning  string    // something to do that does not keep tor from working: an old version
	Version  string    // of tor, "" while unknown
	Progress time.Time // when Percent last grew
	Restarts int       // how often tor was started again
	Services []ServiceStatus
}

// ServiceStatus is a service that we listen for.
type ServiceStatus struct {
	Name      onionid.Name
	Ports     []int
	Published bool   // the directories have its descriptor
	Detail    string // why not, if tor refused it
}

// Status is the present state.
func (t *Tor) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.status
	s.Services = make([]ServiceStatus, 0, len(t.services))
	for _, v := range t.services {
		st := ServiceStatus{Name: v.name, Published: v.published, Detail: v.detail}
		st.Ports = slices.Sorted(maps.Keys(v.ports))
		s.Services = append(s.Services, st)
	}
	slices.SortFunc(s.Services, func(a, b ServiceStatus) int { return strings.Compare(string(a.Name), string(b.Name)) })
	s.Summary = s.summary()
	return s
}

// Changed is closed at the next change of Status. Get it before looking at Status, then nothing is missed.
func (t *Tor) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// Follow calls fn with the status now and after each change, until ctx ends.
func (t *Tor) Follow(ctx context.Context, fn func(Status)) {
	for {
		changed := t.Changed()
		fn(t.Status())
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// WaitReady returns nil when dials are possible, ErrOff if they never will be, or ctx's error with the state so far.
func (t *Tor) WaitReady(ctx context.Context) error {
	for {
		changed := t.Changed()
		s := t.Status()
		if s.State == StateReady {
			return nil
		}
		if s.Mode == Off {
			return ErrOff
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s (%w)", ErrNotReady, s.Summary, ctx.Err())
		}
	}
}

// update changes the status under the lock, and tells who waits.
func (t *Tor) update(f func(*Status)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.updateLocked(f)
}

func (t *Tor) updateLocked(f func(*Status)) {
	f(&t.status)
	close(t.changed)
	t.changed = make(chan struct{})
}

func (s *Status) summary() string {
	because := ""
	if s.Reason != ReasonNone {
		because = ". " + s.Reason.Advice()
	}
	switch s.State {
	case StateOff:
		if s.Mode == Off {
			return "Tor is switched off"
		}
		return "Tor is not started"
	case StateStarting:
		return "Starting Tor"
	case StateBootstrapping:
		step := tagText[s.Tag]
		if step != "" {
			step = ": " + step
		}
		return fmt.Sprintf("Connecting to Tor (%d %%)%s%s", s.Percent, step, because)
	case StateReady:
		if s.Reason != ReasonNone {
			return "Connected to Tor before, but the network does not answer" + because
		}
		return "Connected to Tor"
	case StateFailed:
		return "Tor is not running" + because
	}
	return string(s.State)
}

// tagText are the steps of a bootstrap in words of people who do not know Tor (tor's own: "ap_handshake_done").
var tagText = map[string]string{
	"starting":               "starting",
	"conn_pt":                "reaching the bridge's helper program",
	"conn_done_pt":           "reaching the bridge",
	"conn_proxy":             "reaching the proxy",
	"conn_done_proxy":        "reaching the proxy",
	"conn":                   "reaching a first relay",
	"conn_done":              "reached a first relay",
	"handshake":              "greeting the relay",
	"handshake_done":         "greeted the relay",
	"onehop_create":          "asking for the directory",
	"requesting_status":      "asking for the directory",
	"loading_status":         "loading the directory",
	"loading_keys":           "loading the directory's keys",
	"requesting_descriptors": "asking for the list of relays",
	"loading_descriptors":    "loading the list of relays",
	"enough_dirinfo":         "loaded enough of the list of relays",
	"ap_conn_pt":             "reaching the bridge",
	"ap_conn":                "reaching the entry relay",
	"ap_conn_done":           "reached the entry relay",
	"ap_handshake":           "greeting the entry relay",
	"ap_handshake_done":      "greeted the entry relay",
	"circuit_create":         "building the first circuit",
	"done":                   "done",
}

// onStatus takes in a STATUS_CLIENT or STATUS_GENERAL event (control-spec §4.1.10), or the same line from GETINFO.
// severity is NOTICE, WARN or ERR.
func (t *Tor) onStatus(severity, action string, kv map[string]string) {
	switch action {
	case "BOOTSTRAP":
		t.onBootstrap(severity, kv)
	case "CLOCK_SKEW":
		skew, err := strconv.ParseInt(strings.TrimSuffix(kv["SKEW"], "s"), 10, 64)
		if err != nil || skew > -60 && skew < 60 || skew < -1e9 || skew > 1e9 {
			return // the private network's and small ones: harmless
		}
		way, d := "ahead of", time.Duration(skew)*time.Second
		if skew < 0 { // control-spec: an hour in the past is -3600
			way, d = "behind", -d
		}
		t.stuck(ReasonClock, fmt.Sprintf("this computer's clock is about %v %s the network's", d, way))
	case "CLOCK_JUMPED":
		t.log.Warn("the clock jumped: tor builds its circuits anew")
	case "DANGEROUS_VERSION":
		if r := kv["REASON"]; r == "OBSOLETE" || r == "UNRECOMMENDED" {
			t.update(func(s *Status) {
				s.Warning = fmt.Sprintf("tor %s is no longer recommended by the Tor Project: install a newer one", s.Version)
			})
		}
	case "DIR_ALL_UNREACHABLE":
		t.stuck(ReasonNoRoute, "no directory can be reached")
	case "CIRCUIT_NOT_ESTABLISHED":
		if kv["REASON"] == "CLOCK_JUMPED" {
			return
		}
		t.stuck(ReasonNoRoute, "circuits fail")
	case "CIRCUIT_ESTABLISHED":
		t.update(func(s *Status) {
			if s.State == StateReady && s.Reason == ReasonNoRoute {
				s.Reason, s.Detail = ReasonNone, ""
			}
		})
	}
}

func (t *Tor) onBootstrap(severity string, kv map[string]string) {
	percent, err := strconv.Atoi(kv["PROGRESS"])
	if err != nil || percent < 0 || percent > 100 {
		return
	}
	ready := false
	t.update(func(s *Status) {
		if percent < s.Percent { // tor never goes back: the answer to a question of before an event
			return
		}
		if percent > s.Percent {
			s.Progress = time.Now()
			if s.Reason != ReasonClock || percent == 100 { // a wrong clock stays wrong while tor goes on
				s.Reason, s.Detail = ReasonNone, ""
			}
		}
		s.Percent, s.Tag = percent, kv["TAG"]
		if percent == 100 && s.State != StateReady {
			s.State, ready = StateReady, true
		} else if percent < 100 {
			s.State = StateBootstrapping
		}
	})
	if ready {
		t.log.Info("connected to Tor")
	}
	if severity != "NOTICE" && percent < 100 {
		t.stuck(t.bootstrapReason(kv["REASON"]), strings.TrimSpace(kv["WARNING"]+" ("+kv["REASON"]+")"))
	}
}

// stuck notes what is in the way. The clock outranks what follows from it.
func (t *Tor) stuck(r Reason, detail string) {
	news := false
	t.update(func(s *Status) {
		if s.Reason == ReasonClock && r != ReasonClock {
			return
		}
		news = s.Reason != r
		s.Reason, s.Detail = r, detail
	})
	if news {
		t.log.Warn("tor has trouble", "reason", string(r), "advice", r.Advice())
	}
}

// bootstrapReason translates the REASON of a bootstrap warning (control-spec: that of ORCONN).
func (t *Tor) bootstrapReason(reason string) Reason {
	switch {
	case reason == "PT_MISSING":
		return ReasonBridges
	case len(t.cfg.Bridges) > 0:
		return ReasonBridges
	}
	return ReasonNoRoute // NOROUTE, TIMEOUT, CONNECTREFUSED, CONNECTRESET, IOERROR, DONE, IDENTITY, MISC
}
