#!/box/busybox sh
# First program of the guest: mounts, modules, then the script of /job that the command line names. Ends the machine with the script's exit code.
export PATH=/usr/sbin:/usr/bin:/box HOME=/tmp
/box/busybox --install -s /box
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o size=75% shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
chmod 1777 /dev/shm /tmp
# What the firmware wrote has no end of line. The host waits for the second line, and boots a guest again that does not come to it.
printf '\nckpt: booted\n'

finish() {
  printf "\\x$(printf %x "$1")" | dd of=/dev/port bs=1 seek=244 2>/dev/null
  poweroff -f
}

while read -r module; do
  insmod "/modules/$module" || finish 97
done </modules/order
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host_usr /usr || finish 98
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 job /job || finish 98
ip link set lo up
# Registered memory is locked memory.
ulimit -l unlimited
cd /job
# Not busybox's shell, which has commands of its own for ip and others.
script=$(sed 's/.*ckpt\.script=\([a-z-]*\).*/\1/' /proc/cmdline)
/usr/bin/sh "./$script.sh"
finish $?
