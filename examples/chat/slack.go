package main

import (
	"encoding/json"
	"strings"

	"github.com/outhook/outhook"
)

// slackLimit is how many characters Slack advises. It cuts a text at 40,000, which
// this one stays below when it is escaped. See
// https://docs.slack.dev/reference/methods/chat.postMessage.
const slackLimit = 4000

// slack makes a message for an incoming webhook of Slack, in its mrkdwn. See
// https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and
// https://docs.slack.dev/messaging/formatting-message-text.
func slack(event outhook.Event) (*outhook.Payload, error) {
	a, err := alertOf(event)
	if err != nil {
		return nil, err
	}
	text := "*" + mrkdwn(clip(a.Title, 200)) + "*\n" + mrkdwn(clip(a.Text, slackLimit))
	if a.URL != "" {
		text += "\n<" + mrkdwn(a.URL) + ">"
	}
	body, err := json.Marshal(map[string]string{"text": text})
	return &outhook.Payload{Body: body}, err
}

// mrkdwn replaces the three characters that are Slack's own, so that no text can
// make a link or call everybody. There is no way to write the marks for bold and
// the like as they are.
func mrkdwn(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
