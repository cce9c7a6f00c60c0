package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/outhook/outhook"
)

// slack subscribes a channel by the URL of its incoming webhook. Slack verifies
// no signatures: whoever knows the URL may post, so it is a secret.
func slack(url string) outhook.Subscriber {
	return outhook.Subscriber{
		ID:          "slack",
		URL:         url,
		Unsigned:    true,
		Encode:      slackText,
		Concurrency: 1, // Slack takes about one message a second, and answers 429 to more
	}
}

// slackText makes a message in Slack's mrkdwn. See
// https://docs.slack.dev/messaging/formatting-message-text.
func slackText(event outhook.Event) (*outhook.Payload, error) {
	a, ok := event.Data.(activity)
	if !ok {
		return nil, fmt.Errorf("there is no message for a %T", event.Data)
	}
	body, err := json.Marshal(map[string]string{
		"text": fmt.Sprintf("*%s* %s %s in %s", escape(a.Actor), a.Did, a.Subject.mrkdwn(), a.In.mrkdwn()),
	})
	return &outhook.Payload{Body: body}, err
}

// mrkdwn is the link as Slack writes it. A '|' in the URL would end it too early.
func (l link) mrkdwn() string {
	return fmt.Sprintf("<%s|%s>", escape(strings.ReplaceAll(l.URL, "|", "%7C")), escape(l.Text))
}

// escape replaces the three characters that are Slack's own, and no others.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
