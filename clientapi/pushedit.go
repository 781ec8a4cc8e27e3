// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/v2"
	"errors"
	"slices"
	"strings"

	"tarn/account"
	"tarn/matrix"
	"tarn/push"
)

// A user's push rules are account data (m.push_rules), whole: so they are in /sync like other account data. As long as
// nothing was changed there is no such datum, and push.Default counts. Of a default rule only "enabled" and "actions"
// can be changed; the rest is taken from this program's, so that a newer program's defaults are everybody's.

// maxPushRules of a user's own, of one kind.
const maxPushRules = 1000

// rulesOf reads a user's rules: own ones before the defaults of their kind, but for the master rule.
func (a *API) rulesOf(user matrix.UserID) (push.Rules, error) {
	rules := push.Default(user)
	raw, err := a.accounts.Data(user, "", dataPushRules)
	if errors.Is(err, account.ErrNotFound) {
		return rules, nil
	}
	if err != nil {
		return rules, err
	}
	var stored struct {
		Global map[string][]push.Rule `json:"global"`
	}
	if err := json.Unmarshal(raw, &stored); err != nil {
		return rules, err
	}
	for _, kind := range push.Kinds {
		list := rules.Kind(kind)
		var own []push.Rule
		for _, s := range stored.Global[kind] {
			if !s.Default {
				own = append(own, s)
				continue
			}
			if i := findRule(*list, s.ID); i >= 0 {
				(*list)[i].Enabled, (*list)[i].Actions = s.Enabled, s.Actions
			}
		}
		at := 0
		if kind == "override" {
			at = 1 // "The .m.rule.master ... always takes the highest priority"
		}
		*list = slices.Insert(*list, at, own...)
	}
	return rules, nil
}

func findRule(list []push.Rule, id string) int {
	return slices.IndexFunc(list, func(r push.Rule) bool { return r.ID == id })
}

// pushRules: GET /pushrules/.
func (a *API) pushRules(c *call) (any, error) {
	rules, err := a.rulesOf(c.who.User)
	if err != nil {
		return nil, err
	}
	return rules.Raw(), nil
}

// pushRulesGlobal: GET /pushrules/global/.
func (a *API) pushRulesGlobal(c *call) (any, error) { return a.rulesOf(c.who.User) }

var errNoRule = notFound("there is no such push rule")

func (a *API) findRule(c *call) (push.Rule, error) {
	rules, err := a.rulesOf(c.who.User)
	if err != nil {
		return push.Rule{}, err
	}
	if list := rules.Kind(c.path("kind")); list != nil {
		if i := findRule(*list, c.path("rule")); i >= 0 {
			return (*list)[i], nil
		}
	}
	return push.Rule{}, errNoRule // also of an unknown kind: 404 is what clients expect
}

// pushRule: GET /pushrules/global/{kind}/{ruleId}.
func (a *API) pushRule(c *call) (any, error) { return a.findRule(c) }

// pushRuleEnabled: GET /pushrules/global/{kind}/{ruleId}/enabled.
func (a *API) pushRuleEnabled(c *call) (any, error) {
	r, err := a.findRule(c)
	return map[string]bool{"enabled": r.Enabled}, err
}

// pushRuleActions: GET /pushrules/global/{kind}/{ruleId}/actions.
func (a *API) pushRuleActions(c *call) (any, error) {
	r, err := a.findRule(c)
	return map[string]any{"actions": r.Actions}, err
}

// changeRules lets change edit the rules of the path's kind, and stores them.
func (a *API) changeRules(c *call, change func(list *[]push.Rule) error) (any, error) {
	defer a.edit(c.who.User)()
	rules, err := a.rulesOf(c.who.User)
	if err != nil {
		return nil, err
	}
	list := rules.Kind(c.path("kind"))
	if list == nil {
		return nil, errNoRule
	}
	if err := change(list); err != nil {
		return nil, err
	}
	return empty{}, a.accounts.SetData(c.who.User, "", dataPushRules, []byte(rules.Raw()))
}

// changeRule lets change edit one rule.
func (a *API) changeRule(c *call, change func(*push.Rule)) (any, error) {
	return a.changeRules(c, func(list *[]push.Rule) error {
		i := findRule(*list, c.path("rule"))
		if i < 0 {
			return errNoRule
		}
		change(&(*list)[i])
		return nil
	})
}

// setPushRuleEnabled: PUT /pushrules/global/{kind}/{ruleId}/enabled.
func (a *API) setPushRuleEnabled(c *call) (any, error) {
	var q struct {
		Enabled *bool `json:"enabled"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Enabled == nil {
		return nil, missing("enabled")
	}
	return a.changeRule(c, func(r *push.Rule) { r.Enabled = *q.Enabled })
}

// setPushRuleActions: PUT /pushrules/global/{kind}/{ruleId}/actions.
func (a *API) setPushRuleActions(c *call) (any, error) {
	var q struct {
		Actions []any `json:"actions"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	actions, err := goodActions(q.Actions)
	if err != nil {
		return nil, err
	}
	return a.changeRule(c, func(r *push.Rule) { r.Actions = actions })
}

// goodActions: each is a word, or an object with set_tweak (C-S API, "Actions"). Unknown words are kept: clients ignore them. Those of old
// times are not: "a rule with ["dont_notify"] actions MUST be equivalent to a rule with an empty actions array".
func goodActions(actions []any) ([]any, error) {
	if actions == nil {
		return nil, missing("actions")
	}
	good := make([]any, 0, len(actions))
	for _, x := range actions {
		switch y := x.(type) {
		case string:
			if y == "dont_notify" || y == "coalesce" {
				continue
			}
		case map[string]any:
			if _, ok := y["set_tweak"].(string); !ok {
				return nil, invalid("an action that is an object must have set_tweak")
			}
		default:
			return nil, invalid("an action must be a string or an object")
		}
		good = append(good, x)
	}
	return good, nil
}

// setPushRule: PUT /pushrules/global/{kind}/{ruleId}?before=&after=.
func (a *API) setPushRule(c *call) (any, error) {
	var q struct {
		Actions    []any            `json:"actions"`
		Conditions []push.Condition `json:"conditions"`
		Pattern    string           `json:"pattern"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	actions, err := goodActions(q.Actions)
	if err != nil {
		return nil, err
	}
	kind, id := c.path("kind"), c.path("rule")
	if strings.HasPrefix(id, ".") || len(id) > matrix.MaxID || strings.ContainsAny(id, `/\`) {
		return nil, invalid("a rule's id may not begin with a dot, be longer than %d bytes, or have slashes", matrix.MaxID)
	}
	rule := push.Rule{ID: id, Enabled: true, Actions: actions}
	switch kind {
	case "postcontent": // MSC4306: clients MUST NOT be able to create custom rules with this push rule kind
		return nil, invalid("there are no rules of one's own of this kind")
	case "content":
		if q.Pattern == "" {
			return nil, missing("pattern")
		}
		rule.Pattern = q.Pattern
	case "override", "underride":
		rule.Conditions = append([]push.Condition{}, q.Conditions...)
		for _, x := range rule.Conditions {
			if x.Kind == "" {
				return nil, invalid("a condition must have a kind")
			}
		}
	}
	return a.changeRules(c, func(list *[]push.Rule) error {
		if i := findRule(*list, id); i >= 0 {
			rule.Enabled = (*list)[i].Enabled
			if c.query("before") == "" && c.query("after") == "" { // it stays where it is
				(*list)[i] = rule
				return nil
			}
			*list = slices.Delete(*list, i, i+1)
		} else if len(*list) >= maxPushRules {
			return invalid("more than %d push rules of a kind", maxPushRules)
		}
		// A new rule comes before all others that are the user's, unless it is told where.
		at := 0
		if kind == "override" {
			at = 1
		}
		for name, offset := range map[string]int{"after": 1, "before": 0} {
			other := c.query(name)
			if other == "" || name == "after" && c.query("before") != "" {
				continue
			}
			i := findRule(*list, other)
			if i < 0 || strings.HasPrefix(other, ".") {
				return &Error{Status: 400, Code: matrix.ErrcodeUnknown, Text: "before or after names no rule of the user's"}
			}
			at = i + offset
		}
		*list = slices.Insert(*list, at, rule)
		return nil
	})
}

// deletePushRule: DELETE /pushrules/global/{kind}/{ruleId}.
func (a *API) deletePushRule(c *call) (any, error) {
	return a.changeRules(c, func(list *[]push.Rule) error {
		i := findRule(*list, c.path("rule"))
		switch {
		case i < 0:
			return errNoRule
		case (*list)[i].Default:
			return invalid("a default rule can be switched off, but not deleted")
		}
		*list = slices.Delete(*list, i, i+1)
		return nil
	})
}
