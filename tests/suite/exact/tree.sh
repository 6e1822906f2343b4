# Fills $R with what a tar can say, each thing in a directory of its own.
umask 022
mkdir -p "$R"; cd "$R"
mkdir -p names links/other sparse times owners modes devices attributes acls/default capabilities empty loops

long() { printf "$1%.0s" $(seq "$2"); }
touch "names/$(long n 99)" "names/$(long n 100)" "names/$(long n 101)" "names/$(long n 155)" "names/$(long n 255)"
mkdir -p "names/$(long d 150)/$(long e 150)"; echo deep > "names/$(long d 150)/$(long e 150)/$(long f 200)"
ln -s "$(long t 99)" names/to99; ln -s "$(long t 100)" names/to100; ln -s "$(long t 101)" names/to101
ln -s "$(long t 4000)" names/to4000; ln "names/$(long n 155)" "names/to-the-$(long n 155)"
echo 1 > $'names/latin\xe9\xff'; echo 2 > $'names/new\nline'; echo 3 > 'names/back\slash "quotes"'; echo 4 > names/中文
echo 5 > 'names/ '; echo 6 > names/-rf; mkdir names/.hidden

echo linked > links/one; ln links/one links/other/two; ln links/one links/three; ln -s one links/soft
ln links/soft links/other/soft; ln -s ../../../etc links/outside; ln -s /links/one links/absolute; ln -s loop loops/loop; ln -s b loops/a; ln -s a loops/b; ln -s . loops/here

truncate -s 96k sparse/hole; truncate -s 720k sparse/some; truncate -s 512k sparse/large
for at in 1 100 101 700; do echo "at $at" | dd of=sparse/some bs=1k seek=$at conv=notrunc status=none; done
for at in $(seq 0 40); do echo "at $at" | dd of=sparse/many bs=8k seek=$at conv=notrunc status=none; done
echo end | dd of=sparse/large bs=1k seek=400 conv=notrunc status=none; truncate -s 8k sparse/begin; echo x >> sparse/begin
echo y > sparse/end; truncate -s 96k sparse/end

echo a > times/fraction; touch -d '2001-02-03 04:05:06.789012345' times/fraction
echo b > times/last; touch -d '2009-09-09 09:09:09.999999999' times/last; mkdir times/dir; ln -s x times/soft
touch -h -d '2004-04-04 04:04:04.4' times/soft; touch -d '2005-05-05 05:05:05.000000005' times/dir
echo c > times/epoch; touch -d @0 times/epoch; echo d > times/late; touch -d '2100-01-01 00:00:00.5' times/late

n=0; for id in 0 1 1000 65534 2097151 2097152 2147483647 4294967294; do
    n=$((n+1)); echo $n > owners/file$n; chown $id:$id owners/file$n; mkdir owners/dir$n; chown $id:0 owners/dir$n
    ln -s x owners/soft$n; chown -h 0:$id owners/soft$n
done
for mode in 0000 0001 0400 0644 0777 1777 2755 4755 6711 7777; do
    echo $mode > modes/file$mode; chmod $mode modes/file$mode; mkdir modes/dir$mode; echo in > modes/dir$mode/in
    chmod $mode modes/dir$mode; mkfifo modes/pipe$mode; chmod $mode modes/pipe$mode
done
mknod devices/null c 1 3; mknod devices/disk b 7 200; mknod devices/large c 259 70000; mkfifo devices/pipe

cp /bin/cat capabilities/two; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 capabilities/two
cp /bin/cat capabilities/three
setfattr -n security.capability -v 0x010000030020000000000000000000000000000000001000 capabilities/three
ln capabilities/two capabilities/two-too
echo a > attributes/file; setfattr -n user.note -v "a value" attributes/file; setfattr -n user.bytes -v 0x00ff0a3d attributes/file
setfattr -n user.long -v "$(long v 2000)" attributes/file; setfattr -n user.of-a-directory -v 1 attributes
echo b > attributes/trusted; setfattr -n trusted.note -v t attributes/trusted
echo a > acls/file; setfacl -m u:1234:rwx,g:77:r acls/file; mkdir acls/dir; setfacl -m u:5:rx acls/dir; echo in > acls/dir/in
setfacl -d -m u:1234:rwx,g:77:r acls/default

touch empty/file; mkdir empty/dir; head -c 511 /dev/urandom > 511; head -c 512 /dev/urandom > 512; head -c 513 /dev/urandom > 513
find . -depth ! -path './times/*' ! -path . -newermt 2020-01-01 -exec touch -h -d '2002-02-02 02:02:02' {} +
touch -d '2003-03-03 03:03:03' .; chmod 751 .
