// Package cloudevents sends the events of outhook as CloudEvents 1.0, and makes
// the handshake of its web hooks.
//
// # Sending
//
// An [Encoder] has two methods for the field Encode of an [outhook.Subscriber]:
//
//	encoder := cloudevents.Encoder{Source: "https://shop.example", TypePrefix: "example.shop."}
//	subscriber.Encode = encoder.Structured // one JSON document
//	subscriber.Encode = encoder.Binary     // attributes in ce-* headers, the data as the body
//
// The requests are signed like all others. Signatures cover the ID, the timestamp
// and the body: in binary mode, no ce-* header. A receiver that trusts those has
// to be sure of its TLS, or ask for the structured mode.
//
// # The handshake
//
// "HTTP 1.1 Web Hooks for Event Delivery" lets a target be asked, before the
// first event, whether it wants them, and how many a minute. Call [Handshake]
// when a subscriber registers; a [Callback] takes the consent of targets that
// give it later. A [Target] is the receiver's side.
//
// # Receiving
//
// The official Go SDK reads the requests, by cehttp.NewEventFromHTTPRequest say;
// see the example of Encoder.
//
// The sections named in this package are those of CloudEvents 1.0.2, of its HTTP
// protocol binding and of its web hook specification:
// https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents.
package cloudevents
