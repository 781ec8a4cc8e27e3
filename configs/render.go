// SPDX-License-Identifier: Apache-2.0

package configs

import (
	_ "embed"
	"fmt"
	"reflect"
	"strings"
	"time"
)

//go:embed node.toml
var nodeSample string

// RenderNode writes n as a configuration file: the sample, with its comments, and n's values.
func RenderNode(n Node) []byte { return render(nodeSample, reflect.ValueOf(n)) }

// render replaces the value on each "key = value" line of a sample.
func render(sample string, v reflect.Value) []byte {
	values := map[string]string{}
	collect(v, "", values)
	table := ""
	lines := strings.Split(sample, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "[") {
			table = strings.Trim(l, "[]") + "."
			continue
		}
		k, _, ok := strings.Cut(l, " = ")
		if new, known := values[table+k]; ok && known && !strings.HasPrefix(l, "#") {
			lines[i] = k + " = " + new
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

func collect(v reflect.Value, prefix string, into map[string]string) {
	for i := range v.NumField() {
		key := prefix + v.Type().Field(i).Tag.Get("toml")
		if v.Field(i).Kind() == reflect.Struct {
			collect(v.Field(i), key+".", into)
			continue
		}
		into[key] = literal(v.Field(i))
	}
}

// literal is a value in TOML.
func literal(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return fmt.Sprintf("%q", x)
	case fmt.Stringer:
		return fmt.Sprintf("%q", x)
	case string:
		return fmt.Sprintf("%q", x)
	case []string:
		q := make([]string, len(x))
		for i := range x {
			q[i] = fmt.Sprintf("%q", x[i])
		}
		return "[" + strings.Join(q, ", ") + "]"
	default:
		return fmt.Sprint(x)
	}
}
