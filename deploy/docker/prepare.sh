#!/bin/sh
# What the services of docker-compose.yml must find before they begin: folders that their user may
# write to, tokens, and a certificate for the teacher. What is there already stays; put your own
# files in the same places before the first start to use those.
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
days=365
renew_s=604800

for folder in /srv/imitkd/runs /srv/imitkd/data /secrets; do
    $as_user test -w "$folder" || chown "$user:$group" "$folder"
done
mkdir -p /secrets/authority /secrets/teacher /secrets/client /secrets/ray
umask 077

new_token() {
    test -s "$1" || openssl rand -hex 32 >"$1"
}

# An authority whose key is not kept, and the one certificate it signs.
new_certificate() {
    cd "$(mktemp -d)"
    new_key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    openssl req -x509 $new_key -days $days -subj "/CN=imitkd compose" -keyout ca-key.pem -out ca.pem
    openssl req $new_key -subj "/CN=teacher" -keyout tls-key.pem -out request.pem
    echo "subjectAltName=DNS:teacher,DNS:localhost,IP:127.0.0.1" >names
    openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days $days \
        -extfile names -out tls.pem
    cp ca.pem /secrets/authority/
    cp tls.pem tls-key.pem /secrets/teacher/
}

ours_and_ending() {
    openssl x509 -in /secrets/authority/ca.pem -noout -subject | grep -q "imitkd compose" &&
        ! openssl x509 -in /secrets/authority/ca.pem -noout -checkend $renew_s >/dev/null
}

new_token /secrets/teacher/token
new_token /secrets/ray/token
cp /secrets/teacher/token /secrets/client/token
if ! test -s /secrets/authority/ca.pem || ours_and_ending; then
    (new_certificate) 2>/tmp/openssl.log || { cat /tmp/openssl.log >&2; exit 1; }
fi
chmod 755 /secrets/authority
chmod 644 /secrets/authority/ca.pem
chown -R "$user:$group" /secrets/authority /secrets/teacher /secrets/client /secrets/ray
touch /tmp/ready
exec $as_user sleep infinity
