package main

import (
	"encoding/json"

	"github.com/outhook/outhook"
)

// teamsLimit keeps a message below the 28 KB that Teams takes, whatever its
// characters need as JSON.
const teamsLimit = 4000

// teams makes a message with an Adaptive Card for the webhook of a workflow in
// Microsoft Teams, "When a Teams webhook request is received". The connectors that
// took a MessageCard are retired. See
// https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
// and https://adaptivecards.io/explorer/AdaptiveCard.html.
//
// The text is in TextRuns, which know no Markdown, other than a TextBlock.
func teams(event outhook.Event) (*outhook.Payload, error) {
	a, err := alertOf(event)
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	paragraph := func(run object) object {
		run["type"] = "TextRun"
		return object{"type": "RichTextBlock", "inlines": []any{run}}
	}
	body := []any{paragraph(object{"text": clip(a.Title, 200), "weight": "bolder", "size": "medium"})}
	if a.Text != "" {
		body = append(body, paragraph(object{"text": clip(a.Text, teamsLimit)}))
	}
	card := object{
		"$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
		"type":    "AdaptiveCard",
		"version": "1.2", // the first with a RichTextBlock
		"body":    body,
	}
	if a.URL != "" {
		card["actions"] = []any{object{"type": "Action.OpenUrl", "title": "Open", "url": a.URL}}
	}
	message, err := json.Marshal(object{
		"type": "message",
		"attachments": []any{object{
			"contentType": "application/vnd.microsoft.card.adaptive",
			"contentUrl":  nil,
			"content":     card,
		}},
	})
	return &outhook.Payload{Body: message}, err
}
