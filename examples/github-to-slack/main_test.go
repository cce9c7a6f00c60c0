package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

func TestDemo(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, demo(t.Context(), &out))
	const in = " in <https://github.com/Codertocat/Hello-World|Codertocat/Hello-World>"
	require.ElementsMatch(t, []string{
		"*Codertocat* opened <https://github.com/Codertocat/Hello-World/issues/1|#1 Spelling error in the README file>" + in,
		"*Codertocat* created <https://github.com/Codertocat/Hello-World/compare/simple-tag|tag simple-tag>" + in,
		"*Codertocat* released <https://github.com/Codertocat/Hello-World/releases/tag/0.0.1|0.0.1>" + in,
	}, strings.Split(strings.TrimSpace(out.String()), "\n"))
}

func TestListenRefuses(t *testing.T) {
	for _, test := range []struct{ name, secret, url, want string }{
		{"no secret", "", "https://hooks.slack.com/services/T/B/x", "GITHUB_WEBHOOK_SECRET"},
		{"no URL", "secret", "", "SLACK_WEBHOOK_URL"},
		{"plain http", "secret", "http://hooks.slack.com/services/T/B/x", "SLACK_WEBHOOK_URL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("GITHUB_WEBHOOK_SECRET", test.secret)
			t.Setenv("SLACK_WEBHOOK_URL", test.url)
			require.ErrorContains(t, listen(t.Context(), "127.0.0.1:0"), test.want)
		})
	}
}

func TestListenStops(t *testing.T) {
	t.Setenv("GITHUB_WEBHOOK_SECRET", "secret")
	t.Setenv("SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T/B/x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, listen(ctx, "127.0.0.1:0"))
}

func TestVerify(t *testing.T) {
	// The example of GitHub's documentation.
	const (
		secret = "It's a Secret to Everybody"
		body   = "Hello, World!"
		sum    = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	)
	for _, test := range []struct {
		name, secret, body, signature string
		want                          bool
	}{
		{"valid", secret, body, "sha256=" + sum, true},
		{"another secret", "guess", body, "sha256=" + sum, false},
		{"another body", secret, body + "\n", "sha256=" + sum, false},
		{"no signature", secret, body, "", false},
		{"no prefix", secret, body, sum, false},
		{"another prefix", secret, body, "sha1=" + sum, false},
		{"cut", secret, body, "sha256=" + sum[:62], false},
		{"empty", secret, body, "sha256=", false},
		{"no hex", secret, body, "sha256=" + strings.Repeat("z", 64), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, verify([]byte(test.secret), []byte(test.body), test.signature))
		})
	}
}

func TestSlackText(t *testing.T) {
	const sender = `"sender": {"login": "ada"}, "repository": {"full_name": "a/b", "html_url": "https://x/a/b"}`
	for _, test := range []struct{ name, event, payload, want string }{
		{"issue", "issues", `{"action": "opened", "issue": {"number": 7, "title": "1 < 2 && <!channel>", "html_url": "https://x/7"}}`,
			"*ada* opened <https://x/7|#7 1 &lt; 2 &amp;&amp; &lt;!channel&gt;> in <https://x/a/b|a/b>"},
		{"push", "push", `{"ref": "refs/heads/fix/it", "compare": "https://x/c?a=1&b=2"}`,
			"*ada* pushed to <https://x/c?a=1&amp;b=2|fix/it> in <https://x/a/b|a/b>"},
		{"new tag", "push", `{"ref": "refs/tags/v1", "compare": "https://x/a|b", "created": true}`,
			"*ada* created <https://x/a%7Cb|tag v1> in <https://x/a/b|a/b>"},
		{"deleted branch", "push", `{"ref": "refs/heads/old", "compare": "https://x/c", "deleted": true}`,
			"*ada* deleted <https://x/c|old> in <https://x/a/b|a/b>"},
		{"named release", "release", `{"action": "published", "release": {"name": "One", "tag_name": "v1", "html_url": "https://x/v1"}}`,
			"*ada* released <https://x/v1|One> in <https://x/a/b|a/b>"},
		{"nameless release", "release", `{"action": "published", "release": {"name": null, "tag_name": "v1", "html_url": "https://x/v1"}}`,
			"*ada* released <https://x/v1|v1> in <https://x/a/b|a/b>"},
	} {
		t.Run(test.name, func(t *testing.T) {
			event, relevant, err := translate(test.event, []byte(strings.TrimSuffix(test.payload, "}")+", "+sender+"}"))
			require.NoError(t, err)
			require.True(t, relevant)
			payload, err := slackText(event)
			require.NoError(t, err)
			var message map[string]string
			require.NoError(t, json.Unmarshal(payload.Body, &message))
			require.Equal(t, map[string]string{"text": test.want}, message)
		})
	}
}

// post hands a signed webhook to the handler and returns the status.
func post(t *testing.T, g *github, event, delivery, body string) int {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/github", strings.NewReader(body))
	r.Header.Set("X-GitHub-Event", event)
	r.Header.Set("X-GitHub-Delivery", delivery)
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sign([]byte("secret"), []byte(body))))
	w := httptest.NewRecorder()
	http.MaxBytesHandler(g, 16<<10).ServeHTTP(w, r)
	return w.Code
}

func TestAnswers(t *testing.T) {
	const opened = `{"action": "opened"}`
	for _, test := range []struct {
		name, secret, event, delivery, body string
		sendErr                             error
		want                                int
	}{
		{"accepted", "secret", "issues", "1-2", opened, nil, http.StatusAccepted},
		{"another secret", "other", "issues", "1-2", opened, nil, http.StatusUnauthorized},
		{"ping", "secret", "ping", "1-2", `{"zen": "Keep it logically awesome."}`, nil, http.StatusNoContent},
		{"another action", "secret", "issues", "1-2", `{"action": "closed"}`, nil, http.StatusNoContent},
		{"no delivery ID", "secret", "issues", "", opened, nil, http.StatusBadRequest},
		{"a form", "secret", "issues", "1-2", "payload=%7B%7D", nil, http.StatusBadRequest},
		{"too large", "secret", "issues", "1-2", strings.Repeat(" ", 17<<10), nil, http.StatusRequestEntityTooLarge},
		{"store down", "secret", "issues", "1-2", opened, errors.New("connection refused"), http.StatusServiceUnavailable},
		{"store full", "secret", "issues", "1-2", opened, outhook.ErrFull, http.StatusServiceUnavailable},
		{"refused", "secret", "issues", "1-2", opened, outhook.ErrConflict, http.StatusBadRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := &github{[]byte(test.secret), func(context.Context, outhook.Event) error { return test.sendErr }}
			require.Equal(t, test.want, post(t, g, test.event, test.delivery, test.body))
		})
	}
}

func TestRedeliveryIsOneMessage(t *testing.T) {
	d, err := outhook.New(outhook.NewMemoryStore(), nil)
	require.NoError(t, err)
	g := &github{[]byte("secret"), func(ctx context.Context, event outhook.Event) error {
		_, err := d.Send(ctx, event, []outhook.Subscriber{slack("https://hooks.slack.com/services/T/B/x")})
		return err
	}}
	body, err := testdata.ReadFile("testdata/github-issues-opened.json")
	require.NoError(t, err)
	for range 2 {
		require.Equal(t, http.StatusAccepted, post(t, g, "issues", recordings[0].delivery, string(body)))
	}
	stats, err := d.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, stats.Pending)
}

func TestSlackStandIn(t *testing.T) {
	for _, test := range []struct{ name, method, contentType, body, want string }{
		{"message", "POST", "application/json", `{"text": "hello"}`, "200 ok"},
		{"charset", "POST", "application/json; charset=utf-8", `{"text": "hello"}`, "200 ok"},
		{"no text", "POST", "application/json", `{"text": ""}`, "400 no_text"},
		{"no JSON", "POST", "application/json", `hello`, "400 invalid_payload"},
		{"no content type", "POST", "", `{"text": "hello"}`, "400 invalid_payload"},
		{"another method", "GET", "application/json", `{"text": "hello"}`, "405 Method Not Allowed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			handler := slackStandIn(make(chan string, 1))
			ask := func() *httptest.ResponseRecorder {
				r := httptest.NewRequestWithContext(t.Context(), test.method, "/", strings.NewReader(test.body))
				r.Header.Set("Content-Type", test.contentType)
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				return w
			}
			first := ask()
			require.Equal(t, http.StatusTooManyRequests, first.Code)
			require.Equal(t, "1", first.Header().Get("Retry-After"))
			w := ask()
			require.Equal(t, test.want, strings.TrimSpace(fmt.Sprint(w.Code, " ", w.Body)))
		})
	}
}
