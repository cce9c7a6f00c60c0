// Package webhooktest tests services that send webhooks with outhook. Three
// lines receive what is sent:
//
//	r := webhooktest.New(t)
//	billing := NewBilling(r.Dispatcher(nil), r.Subscriber("shop"))
//	...
//	paid := r.Wait(1)[0] // verified, recorded, answered 204
//
// A [Receiver] verifies the signature of each request, records it, and answers it
// by a script: 500 twice, a Retry-After, nothing at all. It waits for deliveries
// without sleeping. A request that it cannot verify fails the test.
//
// # In memory, or on a socket
//
// [New] makes a Receiver that is an [http.RoundTripper]: nothing leaves the
// process, and it works inside of testing/synctest, where retries over three days
// take no time. Make it in the bubble. Where the host makes its own Dispatcher,
// the Receiver is its Transport, and no other option has to be changed:
//
//	d, err := outhook.New(store, &outhook.Options{Transport: r})
//
// [NewServer] makes one that listens on a loopback socket, for a host that is
// another process or whose transport is to be tested. Its URL is plain http, so
// the Dispatcher needs [outhook.DevelopmentGuard]. Receiver is an [http.Handler],
// too, to be put into a server of one's own, with TLS say.
//
// # Sending alone
//
// A [Recorder] is told what Send has accepted, and for whom. It needs neither
// Run nor a receiver.
package webhooktest
