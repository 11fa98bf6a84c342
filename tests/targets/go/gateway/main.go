// A network function for the firmware image (rootfs/firmware): it takes IPv4 packets out of UDP, finds where they go, counts
// down their time to live and sends them on. Called as `traffic` it is the world around: it sends bursts of packets through
// the gateway, one after the other, and takes them at the other end, so that none is lost and each burst is of a known size.
//
// It is written as such programs are: nothing in it knows that it is measured, or keeps the compiler from anything.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

const (
	listen = "127.0.0.1:4000"
	// Next hops are ports from here on.
	firstHop = 4001
	hops     = 4
)

// What the world around does, unless TRAFFIC in its environment says otherwise, as in 50/300ms. What stands on a kernel's command
// line without a dot in it is in the environment of the first process, and so of all others.
var (
	burst = uint32(500)
	pause = 10 * time.Second
)

type route struct {
	prefix netip.Prefix
	hop    int
}

// Table holds routes, those with the longest prefix first.
type Table struct{ routes []route }

func newTable() *Table {
	table := &Table{}
	for network := 0; network < 64; network++ {
		bits := 8 + network%17
		address := netip.AddrFrom4([4]byte{10, byte(network), byte(network * 3), 0})
		table.routes = append(table.routes, route{netip.PrefixFrom(address, bits).Masked(), network % hops})
	}
	table.routes = append(table.routes, route{netip.MustParsePrefix("0.0.0.0/0"), 0})
	sort.SliceStable(table.routes, func(a, b int) bool {
		return table.routes[a].prefix.Bits() > table.routes[b].prefix.Bits()
	})
	return table
}

// Lookup finds the next hop of an address.
func (table *Table) Lookup(address netip.Addr) (int, bool) {
	for _, route := range table.routes {
		if route.prefix.Contains(address) {
			return route.hop, true
		}
	}
	return 0, false
}

var (
	errShort    = errors.New("shorter than its header")
	errVersion  = errors.New("not IPv4")
	errChecksum = errors.New("wrong checksum")
	errExpired  = errors.New("its time to live is over")
)

// checksum of a header, whose own field is zero or counts: then the sum is zero.
func checksum(header []byte) uint16 {
	sum := uint32(0)
	for at := 0; at+1 < len(header); at += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[at:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// parse checks the header of a packet and finds its destination.
func parse(packet []byte) (netip.Addr, error) {
	if len(packet) < 20 {
		return netip.Addr{}, errShort
	}
	if packet[0]>>4 != 4 {
		return netip.Addr{}, errVersion
	}
	length := int(packet[0]&15) * 4
	if length < 20 || length > len(packet) || int(binary.BigEndian.Uint16(packet[2:])) > len(packet) {
		return netip.Addr{}, errShort
	}
	if checksum(packet[:length]) != 0 {
		return netip.Addr{}, errChecksum
	}
	return netip.AddrFrom4(*(*[4]byte)(packet[16:20])), nil
}

// Gateway is the network function.
type Gateway struct {
	table  *Table
	socket *net.UDPConn
	hops   [hops]netip.AddrPort
}

// Forward sends one packet on.
func (gateway *Gateway) Forward(packet []byte) error {
	address, err := parse(packet)
	if err != nil {
		return err
	}
	if packet[8] <= 1 {
		return errExpired
	}
	packet[8]--
	packet[10], packet[11] = 0, 0
	binary.BigEndian.PutUint16(packet[10:], checksum(packet[:20]))
	hop, found := gateway.table.Lookup(address)
	if !found {
		return fmt.Errorf("no route to %s", address)
	}
	_, err = gateway.socket.WriteToUDPAddrPort(packet, gateway.hops[hop])
	return err
}

func open(address string) *net.UDPConn {
	socket, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return socket
}

func hop(number int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(firstHop+number))
}

func gateway() {
	gateway := &Gateway{table: newTable(), socket: open(listen)}
	for number := range gateway.hops {
		gateway.hops[number] = hop(number)
	}
	buffer := make([]byte, 2048)
	for {
		length, from, err := gateway.socket.ReadFromUDPAddrPort(buffer)
		if err == nil {
			err = gateway.Forward(buffer[:length])
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "gateway: a packet of %s: %v\n", from, err)
		}
	}
}

func traffic() {
	var sinks [hops]*net.UDPConn
	for number := range sinks {
		sinks[number] = open(hop(number).String())
	}
	table, target := newTable(), netip.MustParseAddrPort(listen)
	packet, buffer := make([]byte, 120), make([]byte, 2048)
	// through sends one packet and waits until it is at the other end.
	through := func(number uint32, patience time.Duration) bool {
		packet[0], packet[8] = 0x45, 64
		packet[10], packet[11] = 0, 0
		binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
		binary.BigEndian.PutUint32(packet[16:], 10<<24|number*2654435761>>8)
		binary.BigEndian.PutUint16(packet[10:], checksum(packet[:20]))
		hop, _ := table.Lookup(netip.AddrFrom4(*(*[4]byte)(packet[16:20])))
		sinks[hop].SetReadDeadline(time.Now().Add(patience))
		sinks[0].WriteToUDPAddrPort(packet, target)
		_, _, err := sinks[hop].ReadFromUDPAddrPort(buffer)
		return err == nil
	}
	if packets, every, found := strings.Cut(os.Getenv("TRAFFIC"), "/"); found {
		if number, err := strconv.ParseUint(packets, 10, 32); err == nil {
			burst = uint32(number)
		}
		if time, err := time.ParseDuration(every); err == nil {
			pause = time
		}
	}
	for !through(0, time.Second) {
		// The gateway is not there yet.
	}
	for sent := uint32(0); ; {
		time.Sleep(pause)
		for end := sent + burst; sent != end; sent++ {
			// Nothing gets lost on the way but what a gateway held that was killed.
			for !through(sent, time.Minute) {
			}
		}
	}
}

func main() {
	if filepath.Base(os.Args[0]) == "traffic" {
		traffic()
	}
	gateway()
}
