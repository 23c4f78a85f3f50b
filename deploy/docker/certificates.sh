#!/bin/sh
# certificates FOLDER: whom the teacher's callers trust (authority/ca.pem), and the teacher's own
# certificate and key (teacher/tls.pem, tls-key.pem). Made where none of the three is there, and again in
# the last week of those made here; a set of one's own stays as it is.
set -eu
umask 077

ca=$1/authority/ca.pem certificate=$1/teacher/tls.pem key=$1/teacher/tls-key.pem
maker="imitkd compose"
days=365
renew_s=604800

# An authority whose key is not kept, and the one certificate it signs.
make_them() {
    made=$(mktemp -d)
    new_key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    (
        cd "$made"
        openssl req -x509 $new_key -days $days -subj "/CN=$maker" -keyout ca-key.pem -out ca.pem
        openssl req $new_key -subj "/CN=teacher" -keyout tls-key.pem -out request.pem
        echo "subjectAltName=DNS:teacher,DNS:localhost,IP:127.0.0.1" >names
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days $days \
            -extfile names -out tls.pem
    ) 2>"$made/log" || { cat "$made/log" >&2; exit 1; }
    cp "$made/ca.pem" "$ca"
    cp "$made/tls.pem" "$certificate"
    cp "$made/tls-key.pem" "$key"
    rm -r "$made"
}

ours() {
    openssl x509 -in "$ca" -noout -subject | grep -q "$maker" &&
        openssl x509 -in "$certificate" -noout -issuer | grep -q "$maker"
}

ending() {
    ! openssl x509 -in "$ca" -noout -checkend $renew_s >/dev/null
}

there= missing=
for file in "$ca" "$certificate" "$key"; do
    if test -s "$file"; then there="$there $file"; else missing="$missing $file"; fi
done
if test -z "$there"; then
    make_them
elif test -n "$missing"; then
    echo "certificates: there is$there, but not$missing; put all three there, or remove what is there" >&2
    exit 1
elif ours && ending; then
    make_them
fi
