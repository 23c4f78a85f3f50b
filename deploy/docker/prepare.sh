#!/bin/sh
# What the services of docker-compose.yml must find before they begin: folders that their user may
# write to, tokens, and a certificate for the teacher. What is there already stays; put your own
# files in the same places before the first start to use those (see certificates.sh).
#
#   /secrets/authority/ca.pem              whom callers of the teacher trust
#   /secrets/teacher/token, tls.pem, tls-key.pem
#   /secrets/client/token                  the teacher's token, for those who ask it
#   /secrets/ray/token                     shared by all nodes of the Ray cluster
#
# Begins as root, with no network, since folders that Docker makes for a mount are root's; then
# becomes an ordinary user and stays, as Compose ends all services when the first one exits.
set -eu

user=$IMITKD_UID group=$IMITKD_GID
as_user="setpriv --reuid=$user --regid=$group --clear-groups --no-new-privs"

for folder in /srv/imitkd/runs /srv/imitkd/data /secrets; do
    $as_user test -w "$folder" || chown "$user:$group" "$folder"
done
mkdir -p /secrets/authority /secrets/teacher /secrets/client /secrets/ray
umask 077

new_token() {
    test -s "$1" || openssl rand -hex 32 >"$1"
}

new_token /secrets/teacher/token
new_token /secrets/ray/token
cp /secrets/teacher/token /secrets/client/token
certificates /secrets
chmod 755 /secrets/authority
chmod 644 /secrets/authority/ca.pem
chown -R "$user:$group" /secrets/authority /secrets/teacher /secrets/client /secrets/ray
touch /tmp/ready
exec $as_user sleep infinity
