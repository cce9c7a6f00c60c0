package main

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf16"

	"github.com/outhook/outhook"
)

// discordLimit is how long the content of a message may be. Discord says
// characters; counted as UTF-16, a text has never fewer of them.
const discordLimit = 2000

// discord makes a message for a webhook of Discord, in its Markdown. Nobody is
// mentioned by it, whatever the text says. See
// https://docs.discord.com/developers/resources/webhook#execute-webhook.
func discord(event outhook.Event) (*outhook.Payload, error) {
	a, err := alertOf(event)
	if err != nil {
		return nil, err
	}
	title := "**" + markdown(a.Title, 256) + "**\n"
	link := ""
	if a.URL != "" { // in brackets it gets no preview
		link = "\n<" + strings.NewReplacer("<", "%3C", ">", "%3E", " ", "%20").Replace(a.URL) + ">"
	}
	room := discordLimit - length(title) - length(link)
	if room < 0 {
		return nil, errors.New("the URL is too long for a message")
	}
	message := map[string]any{
		"content":          title + markdown(a.Text, room) + link,
		"allowed_mentions": map[string][]string{"parse": {}},
	}
	body, err := json.Marshal(message)
	return &outhook.Payload{Body: body}, err
}

// markdown writes a text so that none of it is taken for Markdown, in at most
// limit characters. It cuts between characters, not behind a backslash.
func markdown(s string, limit int) string {
	var b strings.Builder
	whole := 0 // how much fits with the mark that something is missing
	used := 0
	for _, r := range s {
		n := utf16.RuneLen(r)
		if strings.ContainsRune("\\`*_~|<>#[]()", r) {
			n++
		}
		if used+n > limit {
			if limit == 0 {
				return ""
			}
			return b.String()[:whole] + "…"
		}
		if n > utf16.RuneLen(r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
		if used += n; used < limit {
			whole = b.Len()
		}
	}
	return b.String()
}

// length counts the UTF-16 of a text.
func length(s string) int { return len(utf16.Encode([]rune(s))) }
