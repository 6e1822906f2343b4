"""Layers written by Python's tarfile, one entry after the other in the order that a case wants. Each case is an image
with the tag case:NAME. Arguments: a docker-archive to write, and the cases that go into it; several joined by + are
one image, in which each has a directory with its name. With --layers in front: a directory, and cases whose layers
are written there as NAME.0.tar, NAME.1.tar, ..."""

import copy
import hashlib
import io
import json
import platform
import sys
import tarfile

CASES = {}
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ROOTED_CAPABILITY = bytes.fromhex("010000030020000000000000000000000000000000100000")


class Layer:
    """The entries of a layer. Each has a time of its own."""

    def __init__(self, format=tarfile.PAX_FORMAT, pax_headers={}):
        self.format, self.global_headers = format, pax_headers
        self.entries = []
        self.time = 1_000_000_000
        self.files = {}

    def add(self, name, type, mode, data=b"", xattrs={}, **fields):
        self.time += 1000
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.size, entry.mtime = type, mode, len(data), self.time
        for field, value in fields.items():
            setattr(entry, field, value)
        for key, value in xattrs.items():
            entry.pax_headers["SCHILY.xattr." + key] = value.decode("utf-8", "surrogateescape")
        self.entries.append((entry, data, self.format))
        self.files[name] = entry
        return self

    def dir(self, name, mode=0o755, **fields):
        return self.add(name, tarfile.DIRTYPE, mode, **fields)

    def file(self, name, data=b"", mode=0o644, **fields):
        return self.add(name, tarfile.REGTYPE, mode, data, **fields)

    def link(self, name, target, **fields):
        """With what its file has, as real tools write it, unless told otherwise."""
        file = self.files[target.removeprefix("/").removeprefix("./")]
        for field in ["uid", "gid", "mtime", "pax_headers"]:
            fields.setdefault(field, getattr(file, field))
        return self.add(name, tarfile.LNKTYPE, fields.pop("mode", file.mode), linkname=target, **fields)

    def symlink(self, name, target, **fields):
        return self.add(name, tarfile.SYMTYPE, 0o777, linkname=target, **fields)

    def whiteout(self, name):
        parent, _, last = name.rpartition("/")
        return self.file(f"{parent}/.wh.{last}" if parent else f".wh.{last}")

    def opaque(self, name):
        return self.file(f"{name}/.wh..wh..opq" if name else ".wh..wh..opq")

    def done(self):
        out = io.BytesIO()
        options = {"errors": "surrogateescape", "pax_headers": self.global_headers}
        with tarfile.open(fileobj=out, mode="w", **options) as tar:
            for entry, data, tar.format in self.entries:
                tar.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    def take(self, other, directory):
        """Adds what another has, in this directory."""
        for entry, data, format in other.entries:
            entry = copy.copy(entry)
            entry.name = inside(directory, entry.name)
            if entry.islnk() or entry.issym() and entry.linkname.startswith("/"):
                entry.linkname = inside(directory, entry.linkname)
            self.entries.append((entry, data, format))


class Raw(Layer):
    """These bytes, whatever they are."""

    def __init__(self, bytes):
        self.bytes = bytes

    def done(self):
        return self.bytes


def inside(directory, name):
    for start in ["/", "./"]:
        if name.startswith(start):
            return start + directory + "/" + name.removeprefix(start)
    return directory + "/" + name


def case(make):
    CASES[make.__name__] = make
    return make


def base():
    """What the others change."""
    layer = Layer()
    for name in ["d", "d/sub", "d/sub/deep", "e", "e/in", "links"]:
        layer.dir(name, 0o750, uid=7, gid=8)
    for name in ["f", "g", "d/f", "d/g", "d/sub/f", "d/sub/deep/f", "e/in/f"]:
        layer.file(name, b"base " + name.encode(), 0o640, uid=5, gid=6)
    layer.link("links/one", "f").link("links/two", "d/f")
    layer.symlink("to-d", "d").symlink("to-f", "f").symlink("to-root", "/").symlink("loop", "loop")
    return layer


@case
def whiteouts():
    top = Layer().whiteout("f").whiteout("d/sub").whiteout("links/one").whiteout("to-d").whiteout("loop")
    return [base(), top]


@case
def whiteout_of_nothing():
    return [base(), Layer().whiteout("none").whiteout("d/none").whiteout("new/none").dir("new", 0o700)]


@case
def whiteout_before_a_file():
    return [base(), Layer().whiteout("f").file("f", b"new").whiteout("d/g").symlink("d/g", "f")]


@case
def whiteout_before_a_directory():
    return [base(), Layer().whiteout("d").dir("d", 0o711).file("d/new", b"new").whiteout("f").dir("f").file("f/in")]


@case
def whiteout_after_a_file():
    return [base(), Layer().file("f", b"new").whiteout("f")]


@case
def whiteout_after_a_directory():
    return [base(), Layer().dir("d", 0o711).file("d/new", b"new").whiteout("d")]


@case
def whiteout_twice():
    return [base(), Layer().whiteout("f").whiteout("f")]


@case
def whiteout_in_what_is_hidden():
    return [base(), Layer().whiteout("d").whiteout("d/f")]


@case
def whiteout_in_a_file():
    return [base(), Layer().file("d", b"now a file").whiteout("d/f")]


@case
def whiteouts_in_the_middle():
    return [base(), Layer().whiteout("d").whiteout("f"), Layer().dir("d", 0o700).file("d/late", b"").file("f", b"again")]


@case
def opaque_first():
    return [base(), Layer().dir("d", 0o711).opaque("d").file("d/new", b"new").dir("d/sub", 0o700)]


@case
def opaque_last():
    return [base(), Layer().dir("d", 0o711).file("d/new", b"new").dir("d/sub", 0o700).opaque("d")]


@case
def opaque_before_its_directory():
    return [base(), Layer().opaque("d").dir("d", 0o711).file("d/new", b"new")]


@case
def opaque_without_its_directory():
    return [base(), Layer().opaque("d").opaque("e/in")]


@case
def opaque_root():
    return [base(), Layer().opaque("").file("only", b"this")]


@case
def opaque_root_last():
    return [base(), Layer().file("only", b"this").dir("d").file("d/new").opaque("")]


@case
def opaque_twice():
    return [base(), Layer().dir("d").opaque("d").file("d/a").opaque("d"), Layer().opaque("d/sub").dir("d/sub")]


@case
def opaque_and_whiteouts():
    return [base(), Layer().dir("d").opaque("d").whiteout("d/f").file("d/g", b"new").whiteout("d/g2")]


@case
def duplicates():
    top = Layer().file("f", b"first and longer", 0o600).file("f", b"second", 0o640, uid=1)
    top.file("a", b"file").dir("a", 0o700).file("a/in", b"")
    top.dir("b").file("b/in", b"").dir("b/more").file("b", b"now a file")
    top.symlink("s", "d").dir("s", 0o711).file("s/in", b"")
    top.dir("t").symlink("t", "f")
    top.dir("same", 0o700, uid=3).file("same/kept", b"").dir("same", 0o755, uid=4)
    top.file("l", b"one").link("m", "l").file("l", b"two")
    top.symlink("x", "one").symlink("x", "two")
    return [base(), top]


@case
def types_that_change():
    top = Layer().file("d", b"a directory was here").dir("f", 0o700).file("f/in", b"")
    top.symlink("g", "f").file("to-f", b"a link was here").dir("to-d", 0o700).file("to-d/in", b"")
    top.add("e", tarfile.FIFOTYPE, 0o600)
    return [base(), top]


@case
def under_a_link_of_its_layer():
    top = Layer().dir("real", 0o711).symlink("link", "real").file("link/in", b"x").symlink("abs", "/real")
    return [base(), top.file("abs/in2", b"y").symlink("up", "../../real").file("up/in3", b"z")]


@case
def under_a_link_of_a_layer_below():
    return [base(), Layer().file("to-d/new", b"x")]


@case
def missing_parents():
    return [base(), Layer().file("new/a/b/c", b"x").file("d/sub/new", b"y").file("e/x/y", b"z")]


@case
def parents_after_their_children():
    return [base(), Layer().file("p/q/f", b"x").dir("p/q", 0o700, uid=9).dir("p", 0o2711, gid=9)]


@case
def the_root_itself():
    top = Layer().dir("./", 0o711, uid=12, gid=13, xattrs={"user.root": b"yes"}).file("./dot", b"")
    return [base(), top, Layer().file("one", b"")]


@case
def the_root_itself_below():
    return [Layer().dir("./", 0o1777, uid=12, gid=13, xattrs={"user.root": b"yes"}).file("./dot", b""), base()]


@case
def odd_names():
    layer = Layer().file("/absolute", b"").file("./dot/./../dotted", b"").file("a//b", b"").file("trailing/", b"")
    layer.file("latin\udce9\udcff", b"").file("new\nline \\ \t", b"").file("x" * 255, b"").file(" ", b"").file("...", b"")
    layer.file(("y" * 200 + "/") * 15 + "f", b"").symlink("long", "t" * 4000).file("\u00e9\u4e2d\U0001f600", b"")
    return [layer, Layer().whiteout("latin\udce9\udcff").whiteout("y" * 200 + "/" + "y" * 200)]


@case
def hard_links():
    layer = Layer().dir("a").dir("b").file("a/f", b"data", 0o4711, uid=9).link("b/g", "a/f").link("b/h", "/a/f")
    layer.symlink("b/s", "nowhere").link("a/t", "b/s").add("a/p", tarfile.FIFOTYPE, 0o600).link("b/p", "a/p")
    layer.link("top", "./a/f")
    return [layer, Layer().whiteout("a/f").file("b/g", b"apart")]


@case
def hard_links_of_other_metadata():
    layer = Layer().file("f", b"data", 0o4711, uid=9).link("g", "f", mode=0o640, gid=3, mtime=5)
    layer.symlink("s", "nowhere").link("t", "s", mode=0o600, uid=4, mtime=6)
    layer.file("x", b"", xattrs={"user.a": b"1"}).link("y", "x", pax_headers={"SCHILY.xattr.user.b": "2"})
    layer.file("c", b"", 0o755, xattrs={"security.capability": CAPABILITY}).link("d", "c")
    return [layer]


@case
def hard_links_without_capabilities():
    """As GNU tar writes them: only the first name has the attributes."""
    layer = Layer().file("c", b"", 0o4755, uid=5, xattrs={"security.capability": CAPABILITY}).link("d", "c", pax_headers={})
    return [layer]


@case
def times():
    layer = Layer()
    for n, time in enumerate(["1.123456789", "1700000000.000000001", "1700000000.9999999999", "1.5", "0", "0.25"]):
        layer.file(f"t{n}", b"", pax_headers={"mtime": time})
    for n, time in enumerate([1, 2**31 - 1, 2**31, 2**32 + 5, 2**33 + 7]):
        layer.file(f"i{n}", b"", mtime=time)
    layer.dir("dir", pax_headers={"mtime": "1600000000.7"}).file("dir/f", b"").symlink("s", "x", pax_headers={"mtime": "5.75"})
    return [layer]


@case
def times_out_of_range():
    layer = Layer()
    for n, time in enumerate(["-1", "-1.25", "-86400.5", "-99999999999", "8600000000", "8600000000.5", "15032385535",
                              "15032385536", "99999999999", "9223372036854775807", "9223372036"]):
        layer.file(f"t{n}", b"", pax_headers={"mtime": time})
    return [layer]


@case
def times_of_gnu_headers():
    layer = Layer(tarfile.GNU_FORMAT)
    for n, time in enumerate([-1, -100, 2**33 - 1, 2**33, 2**34 - 1, 2**40]):
        layer.file(f"t{n}", b"", mtime=time)
    return [layer]


@case
def owners():
    gnu = Layer(tarfile.GNU_FORMAT)
    pax = Layer()
    for n, id in enumerate([0, 1000, 2**21 - 1, 2**21, 2**31 - 1, 2**31, 2**32 - 2]):
        gnu.file(f"gnu{n}", b"", uid=id, gid=id)
        pax.file(f"pax{n}", b"", uid=id, gid=id).dir(f"dir{n}", uid=id).symlink(f"s{n}", "x", gid=id)
    return [gnu, pax]


@case
def modes():
    layer = Layer()
    for mode in [0, 0o1, 0o4755, 0o2755, 0o1777, 0o7777, 0o6111, 0o100644]:
        layer.file(f"f{mode:o}", b"x", mode).dir(f"d{mode:o}", mode).file(f"d{mode:o}/in", b"")
        layer.add(f"p{mode:o}", tarfile.FIFOTYPE, mode)
    layer.dir("set", 0o2755, gid=77).dir("set/in").file("set/f", b"").file("set/made/f", b"")
    return [layer]


@case
def devices():
    layer = Layer()
    for major, minor in [(1, 3), (0, 1), (259, 1000), (4095, 1048575)]:
        for kind, type in [("c", tarfile.CHRTYPE), ("b", tarfile.BLKTYPE)]:
            layer.add(f"{kind}{major}-{minor}", type, 0o660, devmajor=major, devminor=minor, uid=3, gid=4)
    layer.add("pipe", tarfile.FIFOTYPE, 0o622)
    return [layer]


@case
def a_null_device():
    return [base(), Layer().add("f", tarfile.CHRTYPE, 0o660, devmajor=0, devminor=0).file("x", b"")]


def xattrs_of(layer):
    layer.file("cap", b"x", 0o755, xattrs={"security.capability": CAPABILITY})
    layer.file("cap3", b"x", 0o755, xattrs={"security.capability": ROOTED_CAPABILITY})
    layer.file("capowned", b"x", 0o4755, uid=5, gid=6, xattrs={"security.capability": CAPABILITY})
    return layer


@case
def capabilities():
    layer = xattrs_of(Layer()).link("linked", "cap").dir("d").link("d/linked", "capowned")
    return [layer]


@case
def attributes():
    layer = Layer().file("f", b"x", xattrs={"user.a": b"value", "user.b": b"\0\xff\n=", "user.long.name": b"y" * 2000})
    layer.dir("d", xattrs={"user.d": b"1", "trusted.t": b"2"}).file("d/f", b"", xattrs={"trusted.t": b"3"})
    layer.symlink("s", "f", xattrs={"trusted.s": b"4"})
    acl = bytes.fromhex("02000000 01000700ffffffff 02000700d2040000 04000500ffffffff 10000700ffffffff 20000000ffffffff")
    layer.file("acl", b"", 0o770, xattrs={"system.posix_acl_access": acl})
    layer.dir("defacl", 0o770, xattrs={"system.posix_acl_access": acl, "system.posix_acl_default": acl})
    layer.file("defacl/f", b"", 0o640).dir("defacl/d", 0o750)
    return [layer]


@case
def an_empty_attribute():
    return [Layer().file("f", b"x", xattrs={"user.empty": b""})]


@case
def an_empty_layer():
    return [base(), Layer(), Raw(bytes(1024)), Layer().file("f", b"new")]


@case
def a_layer_of_no_bytes():
    return [base(), Raw(b"")]


@case
def aufs_leftovers():
    top = Layer().file(".wh..wh.aufs", b"").dir(".wh..wh.plnk", 0o700).file(".wh..wh.plnk/1.2", b"").dir(".wh..wh.orph")
    return [base(), top.file("x", b"")]


@case
def global_headers():
    layer = Layer(pax_headers={"comment": "of all", "mtime": "17"}).file("f", b"x").dir("d")
    return [layer]


@case
def many_layers():
    layers = [base()]
    for n in range(1, 128):
        layer = Layer().file(f"of/{n}", str(n).encode()).file("last", str(n).encode())
        if n > 3:
            layer.whiteout(f"of/{n - 3}")
        if n % 40 == 0:
            layer.opaque("of")
        layers.append(layer)
    return layers


def add(tar, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def image(names):
    """The tag and the layers of a case, or of several together."""
    if "+" not in names:
        return names, CASES[names]()
    together = []
    for name in names.split("+"):
        for n, layer in enumerate(CASES[name]()):
            if n == len(together):
                together.append(Layer())
            together[n].take(layer, name)
    return "together", together


def write(path, names):
    """A docker-archive as Docker's classic store writes them."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    manifest, files = [], {}
    for name in names:
        tag, layers = image(name)
        blobs = [layer.done() for layer in layers]
        ids = [hashlib.sha256(blob).hexdigest() for blob in blobs]
        diffs = {"type": "layers", "diff_ids": ["sha256:" + id for id in ids]}
        config = {"architecture": machine, "os": "linux", "config": {"Cmd": [tag]}, "rootfs": diffs}
        config = json.dumps(config).encode()
        config_name = hashlib.sha256(config).hexdigest() + ".json"
        layers = [id + "/layer.tar" for id in ids]
        files.update(zip(layers, blobs))
        files[config_name] = config
        manifest.append({"Config": config_name, "RepoTags": ["case:" + tag], "Layers": layers})
    files["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            add(tar, name, data)


if __name__ == "__main__":
    if sys.argv[1] == "--layers":
        for name in sys.argv[3:]:
            for n, layer in enumerate(CASES[name]()):
                with open(f"{sys.argv[2]}/{name}.{n}.tar", "wb") as out:
                    out.write(layer.done())
    else:
        write(sys.argv[1], sys.argv[2:])
