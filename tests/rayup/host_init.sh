#!/bin/bash
# Process 1 of a simulated host: builds its root file system, then becomes sshd.
# Usage: host_init.sh DISK NAME ADDRESS LABELS RESOURCES MOUNT...
set -euo pipefail
disk=$1 name=$2 address=$3 labels=$4 resources=$5
shift 5
mount --make-rprivate /
mkdir -p "$disk"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
cd "$disk/root"
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mount -t tmpfs -o size=2g,mode=1777 tmpfs dev/shm
for folder in tmp run; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
# What the image of a real host would hold, at the same paths; the new /tmp may have hidden it.
for path in "$@"; do
    mkdir -p ".$path"
    mount --bind "$path" ".$path"
    mount -o remount,bind,ro ".$path"
done
mkdir -p var/lib/chrysalis etc/chrysalis run/sshd run/chrysalis root/.ssh
hostname "$name"
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" >etc/hosts
echo "$address" >etc/chrysalis/address
echo "$labels" >etc/chrysalis/labels
echo "$resources" >etc/chrysalis/resources.json
cp "$disk/authorized_keys" root/.ssh/authorized_keys
rm -f root/.bashrc root/.profile root/.bash_profile
touch root/.bashrc
chmod 700 root root/.ssh
chmod 600 root/.ssh/authorized_keys
cp "$disk/profile.sh" etc/profile.d/chrysalis.sh
[ -f "$disk/ssh_host_key" ] || ssh-keygen -q -t ed25519 -N '' -f "$disk/ssh_host_key"
install -m 600 "$disk/ssh_host_key" etc/ssh/chrysalis_host_key
exec chroot . /usr/sbin/sshd -D -e -f /dev/null -h /etc/ssh/chrysalis_host_key \
    -o PermitRootLogin=prohibit-password -o MaxStartups=100 -o PidFile=none -o UsePAM=no -o Subsystem="sftp internal-sftp"
