package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

var failed = outhook.Event{Type: "deploy.failed", Data: alert{
	Title: "Deploy of <shop> failed",
	Text:  "2 < 3 replicas & *none* ready",
	URL:   "https://ci.example/runs/17?view=log&tail=1",
}}

// show prints a message as JSON that can be read, without \u003c and the like.
func show(payload *outhook.Payload, err error) {
	if err != nil {
		log.Fatal(err)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	var message any
	if err := json.Unmarshal(payload.Body, &message); err != nil {
		log.Fatal(err)
	}
	if err := encoder.Encode(message); err != nil {
		log.Fatal(err)
	}
	fmt.Print(&b)
}

func Example_slack() {
	show(slack(failed))
	// Output:
	// {
	//   "text": "*Deploy of &lt;shop&gt; failed*\n2 &lt; 3 replicas &amp; *none* ready\n<https://ci.example/runs/17?view=log&amp;tail=1>"
	// }
}

func Example_discord() {
	show(discord(failed))
	// Output:
	// {
	//   "allowed_mentions": {
	//     "parse": []
	//   },
	//   "content": "**Deploy of \\<shop\\> failed**\n2 \\< 3 replicas & \\*none\\* ready\n<https://ci.example/runs/17?view=log&tail=1>"
	// }
}

func Example_teams() {
	show(teams(failed))
	// Output:
	// {
	//   "attachments": [
	//     {
	//       "content": {
	//         "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
	//         "actions": [
	//           {
	//             "title": "Open",
	//             "type": "Action.OpenUrl",
	//             "url": "https://ci.example/runs/17?view=log&tail=1"
	//           }
	//         ],
	//         "body": [
	//           {
	//             "inlines": [
	//               {
	//                 "size": "medium",
	//                 "text": "Deploy of <shop> failed",
	//                 "type": "TextRun",
	//                 "weight": "bolder"
	//               }
	//             ],
	//             "type": "RichTextBlock"
	//           },
	//           {
	//             "inlines": [
	//               {
	//                 "text": "2 < 3 replicas & *none* ready",
	//                 "type": "TextRun"
	//               }
	//             ],
	//             "type": "RichTextBlock"
	//           }
	//         ],
	//         "type": "AdaptiveCard",
	//         "version": "1.2"
	//       },
	//       "contentType": "application/vnd.microsoft.card.adaptive",
	//       "contentUrl": null
	//     }
	//   ],
	//   "type": "message"
	// }
}

func TestRun(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out))
	for _, c := range chats {
		_, rest, found := strings.Cut(out.String(), c.name+" got\n")
		require.True(t, found, c.name)
		var message map[string]any
		require.NoError(t, json.NewDecoder(strings.NewReader(rest)).Decode(&message))
		require.NotEmpty(t, message)
	}
}

// TestRunFails: a message that is not taken is told.
func TestRunFails(t *testing.T) {
	before := chats
	defer func() { chats = before }()
	chats = []chat{{"slack", slack, http.StatusGone}}
	require.ErrorContains(t, run(t.Context(), io.Discard), "0 of 1")
}

// content returns a field of what an encoder makes.
func content(t *testing.T, c chat, a alert, field string) string {
	t.Helper()
	payload, err := c.encode(outhook.Event{Data: a})
	require.NoError(t, err)
	var message map[string]any
	require.NoError(t, json.Unmarshal(payload.Body, &message))
	return message[field].(string)
}

func TestNoMessage(t *testing.T) {
	for _, c := range chats {
		for _, data := range []any{nil, "text", &alert{Title: "a"}, alert{Text: "a"}} {
			payload, err := c.encode(outhook.Event{Data: data})
			require.Nil(t, payload)
			require.ErrorContains(t, err, "there is no message", c.name)
		}
	}
}

func TestWithoutURL(t *testing.T) {
	a := alert{Title: "a", Text: "b"}
	require.Equal(t, "*a*\nb", content(t, chats[0], a, "text"))
	require.Equal(t, "**a**\nb", content(t, chats[1], a, "content"))
	payload, err := teams(outhook.Event{Data: alert{Title: "a"}})
	require.NoError(t, err)
	require.NotContains(t, string(payload.Body), "actions")
}

// TestMarkdown cuts texts of many characters at every limit.
func TestMarkdown(t *testing.T) {
	for _, unit := range []string{"x", "ü", "🎉", "<", "\\", "&", "*🎉"} {
		for n := range 9 {
			text := strings.Repeat(unit, n)
			for limit := range 20 {
				name := fmt.Sprintf("%q at %d", text, limit)
				got := markdown(text, limit)
				require.LessOrEqual(t, length(got), limit, name)
				begin, cut := strings.CutSuffix(got, "…")
				require.True(t, strings.HasPrefix(text, unescape(begin)), name)
				if limit > 0 && unescape(begin) != text {
					require.True(t, cut, name)
					require.Greater(t, length(got), limit-3, name) // no more is missing than has to be
				}
				if length(markdown(text, discordLimit)) <= limit {
					require.Equal(t, text, unescape(got), name)
				}
			}
		}
	}
}

// TestLong shows that what is long fits.
func TestLong(t *testing.T) {
	for _, unit := range []string{"x", "ü", "🎉", "<", "\\", "&", "*🎉"} {
		long := alert{Title: strings.Repeat(unit, 9000), Text: strings.Repeat(unit, 9000), URL: "https://a.example/"}
		require.LessOrEqual(t, len([]rune(content(t, chats[0], long, "text"))), 40_000)
		got := content(t, chats[1], long, "content")
		require.LessOrEqual(t, length(got), discordLimit)
		require.Greater(t, length(got), discordLimit-3)
		require.True(t, strings.HasSuffix(got, "…\n<https://a.example/>"))
		payload, err := teams(outhook.Event{Data: long})
		require.NoError(t, err)
		require.Less(t, len(payload.Body), 28<<10)
	}
	_, err := discord(outhook.Event{Data: alert{Title: "t", URL: "https://a.example/" + strings.Repeat("u", discordLimit)}})
	require.ErrorContains(t, err, "too long")
}

// unescape reads what markdown has written, as Discord does. It fails on a
// backslash at the end.
func unescape(s string) string {
	var b strings.Builder
	for runes := []rune(s); len(runes) > 0; runes = runes[1:] {
		if runes[0] == '\\' {
			runes = runes[1:]
		}
		b.WriteRune(runes[0])
	}
	return b.String()
}

// TestNobodyIsCalled: no text makes a mention, a link or a mark of its own.
func TestNobodyIsCalled(t *testing.T) {
	const text = "<!channel> <@U1> <https://evil.example|log in> @everyone [log in](https://evil.example) `x`"
	got := content(t, chats[0], alert{Title: "t", Text: text, URL: "https://a.example/>|<x"}, "text")
	require.Equal(t, 1, strings.Count(got, "<"), "that of the URL")
	require.Equal(t, 1, strings.Count(got, ">"))

	payload, err := discord(outhook.Event{Data: alert{Title: "t", Text: text, URL: "https://a.example/> <x"}})
	require.NoError(t, err)
	var message struct {
		Content         string
		AllowedMentions struct{ Parse []string } `json:"allowed_mentions"`
	}
	require.NoError(t, json.Unmarshal(payload.Body, &message))
	require.NotNil(t, message.AllowedMentions.Parse)
	require.Empty(t, message.AllowedMentions.Parse)
	body, link, _ := strings.Cut(strings.TrimPrefix(message.Content, "**t**\n"), "\n")
	require.Equal(t, "<https://a.example/%3E%20%3Cx>", link)
	require.Equal(t, text, unescape(body))
	for i, r := range body {
		if strings.ContainsRune("<>[]()|`", r) {
			require.Equal(t, byte('\\'), body[i-1])
		}
	}
}

// TestOneEvent sends one event to all, and shows that it stays as it is for a
// subscriber who wants it as it is.
func TestOneEvent(t *testing.T) {
	var got bytes.Buffer
	plain := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = got.ReadFrom(r.Body) }))
	defer plain.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	require.NoError(t, err)
	key := outhook.GenerateKey()
	to := []outhook.Subscriber{{ID: "plain", URL: plain.URL, Keys: []outhook.Key{key}}}
	for _, c := range chats {
		to = append(to, c.subscriber("http://127.0.0.1:9"))
	}
	receipt, err := d.Send(t.Context(), failed, to)
	require.NoError(t, err)
	require.Len(t, receipt.Accepted, 4)
	_, err = d.Drain(t.Context())
	require.NoError(t, err)
	data, err := outhook.Decode[alert](outhook.Event{Payload: &outhook.Payload{Body: got.Bytes()}})
	require.NoError(t, err)
	require.Equal(t, failed.Data, data)
}
