# The guest's RDMA devices. rxe0 talks to itself over a dummy interface. A wire is a veth pair whose ends only reach each other over
# it, in one network namespace, for this kernel's soft-RoCE does not work across several; so links can go down and lose packets.
# Jumbo frames come first: a device takes its MTU from its interface when it is made.
MTU=4300

# set_ip INTERFACE KEY VALUE
set_ip() { echo "$3" >"/proc/sys/net/ipv4/conf/$1/$2"; }

set_ip all accept_local 1
set_ip all rp_filter 0
set_ip all arp_ignore 1
# The rule that finds local addresses moves behind those of the wires.
ip rule add pref 1000 lookup local
ip rule del pref 0

loopback() {
  ip link show dummy0 >/dev/null 2>&1 || ip link add dummy0 type dummy
  ip link set dummy0 mtu $MTU
  ip addr add 10.0.0.1/24 dev dummy0
  ip link set dummy0 up
  rdma link add rxe0 type rxe netdev dummy0
}

# wire NAME NUMBER: interfaces NAMEa and NAMEb, devices NAMEa_rxe and NAMEb_rxe, addresses 10.1.NUMBER.1 and .2
wire() {
  ip link add "$1a" mtu $MTU type veth peer name "$1b" mtu $MTU
  for side in a b; do
    [ $side = a ] && own=1 other=2 || own=2 other=1
    set_ip "$1$side" accept_local 1
    set_ip "$1$side" rp_filter 0
    ip addr add "10.1.$2.$own/32" dev "$1$side"
    ip link set "$1$side" up
    ip rule add pref "1$2$own" iif "$1$side" lookup local
    ip route add "10.1.$2.$other" dev "$1$side" src "10.1.$2.$own" table "2$2$own"
    ip rule add pref "3$2$own" to "10.1.$2.$other" lookup "2$2$own"
  done
  for side in a b; do rdma link add "$1${side}_rxe" type rxe netdev "$1$side"; done
}

# machine NUMBER: the wire to another machine, on which this one is 10.2.0.NUMBER
machine() {
  ip link set eth0 mtu $MTU
  ip addr add "10.2.0.$1/24" dev eth0
  ip link set eth0 up
  rdma link add rxe0 type rxe netdev eth0
}
