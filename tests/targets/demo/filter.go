// A network function for the demo: a packet filter with state. It takes datagrams that carry an IPv4 header and four
// bytes of ports, decides by rules and by flows that it has seen, and answers with a verdict. `filter -load ADDRESS`
// is the other side: a few senders that keep it busy.
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"net"
	"os"
	"sync"
	"time"
)

type packet struct {
	source, target         uint32
	sourcePort, targetPort uint16
	protocol               byte
}

var errShort = errors.New("no whole IPv4 header")

func parse(data []byte) (packet, error) {
	if len(data) < 24 || data[0]>>4 != 4 || data[0]&15 != 5 {
		return packet{}, errShort
	}
	var sum uint32
	for at := 0; at < 20; at += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[at:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if sum != 0xffff {
		return packet{}, fmt.Errorf("checksum %04x", sum)
	}
	return packet{
		source:     binary.BigEndian.Uint32(data[12:]),
		target:     binary.BigEndian.Uint32(data[16:]),
		sourcePort: binary.BigEndian.Uint16(data[20:]),
		targetPort: binary.BigEndian.Uint16(data[22:]),
		protocol:   data[9],
	}, nil
}

// A tree of prefixes, a bit a level.
type rules struct {
	next  [2]*rules
	allow bool
	set   bool
}

func (r *rules) add(prefix uint32, bits int, allow bool) {
	for bit := 0; bit < bits; bit++ {
		branch := prefix >> (31 - bit) & 1
		if r.next[branch] == nil {
			r.next[branch] = &rules{}
		}
		r = r.next[branch]
	}
	r.allow, r.set = allow, true
}

func (r *rules) match(address uint32) bool {
	allow := false
	for bit := 0; r != nil; bit++ {
		if r.set {
			allow = r.allow
		}
		if bit == 32 {
			break
		}
		r = r.next[address>>(31-bit)&1]
	}
	return allow
}

type filter struct {
	rules *rules
	lock  sync.Mutex
	flows map[packet]time.Time
}

// seen notes the flow of a packet, and forgets old ones when there are many: now and then a call takes long.
func (f *filter) seen(p packet, now time.Time) bool {
	f.lock.Lock()
	defer f.lock.Unlock()
	_, known := f.flows[p]
	f.flows[p] = now
	if len(f.flows) > 20_000 {
		for flow, last := range f.flows {
			if now.Sub(last) > time.Second {
				delete(f.flows, flow)
			}
		}
	}
	return known
}

func (f *filter) decide(data []byte) byte {
	p, err := parse(data)
	if err != nil {
		return 'X'
	}
	if f.seen(p, time.Now()) || f.rules.match(p.source) {
		return '+'
	}
	return '-'
}

func (f *filter) serve(socket net.PacketConn) error {
	buffer := make([]byte, 2048)
	for {
		n, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := socket.WriteTo([]byte{f.decide(buffer[:n])}, from); err != nil {
			return err
		}
	}
}

func load(address string) error {
	server, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewSource(1))
	data := make([]byte, 64)
	for {
		data[0], data[9], data[10], data[11] = 0x45, 17, 0, 0
		binary.BigEndian.PutUint32(data[12:], random.Uint32()&0x0fffff|0x0a000000)
		binary.BigEndian.PutUint32(data[16:], 0xc0a80001)
		binary.BigEndian.PutUint32(data[20:], random.Uint32())
		var sum uint32
		for at := 0; at < 20; at += 2 {
			sum += uint32(binary.BigEndian.Uint16(data[at:]))
		}
		for sum > 0xffff {
			sum = sum&0xffff + sum>>16
		}
		binary.BigEndian.PutUint16(data[10:], ^uint16(sum))
		if _, err := server.Write(data); err != nil {
			return err
		}
		server.SetReadDeadline(time.Now().Add(time.Second))
		var verdict [1]byte
		if _, err := server.Read(verdict[:]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:16380", "where datagrams come in")
	peer := flag.String("load", "", "send to this address instead")
	flag.Parse()
	if *peer != "" {
		fmt.Fprintln(os.Stderr, load(*peer))
		os.Exit(1)
	}
	f := &filter{rules: &rules{}, flows: map[packet]time.Time{}}
	f.rules.add(0x0a000000, 8, true)
	f.rules.add(0x0a0f0000, 16, false)
	socket, err := net.ListenPacket("udp", *listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Several readers: goroutines change threads while they wait.
	for reader := 0; reader < 3; reader++ {
		go f.serve(socket)
	}
	fmt.Fprintln(os.Stderr, f.serve(socket))
	os.Exit(1)
}
