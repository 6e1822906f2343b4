#!/usr/bin/env python3
"""bench-load-image DIRECTORY [ARCHIVE]: an image in three forms, for tools/bench-load.

Writes to DIRECTORY the docker-archives plain.tar, gzip.tar and zstd.tar of one image, which differ in the
compression of its layers, and the layers alone in plain/, gzip/ and zstd/. The image is the first one of
ARCHIVE, a docker-archive; without it one of two layers is made of this machine's own files.
"""
import hashlib, json, os, pathlib, shutil, subprocess, sys, tarfile

MOST = 400 << 20    # bytes of files in the image that is made
PROGRAMS = {"gzip": ["gzip", "-6", "-n", "-c"], "zstd": ["zstd", "-q", "-3", "-c"]}


def own_layers(into):
    """Two layers: a quarter of what there is to take, and the rest."""
    layers = []
    for number, (roots, most) in enumerate([(["/etc", "/usr/bin"], MOST // 4), (["/usr/share", "/usr/lib"], MOST - MOST // 4)]):
        path, total = into / f"layer-{number}", 0
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for file in (f for root in roots for f in walk(root)):
                total += file.lstat().st_size
                if total > most:
                    break
                tar.add(file, recursive=False)
        layers.append(path)
    return layers


def walk(root):
    for directory, names, files in os.walk(root):
        names.sort()
        yield pathlib.Path(directory)
        for file in (pathlib.Path(directory, name) for name in sorted(files)):
            if file.is_symlink() or file.is_file():
                yield file


def given_layers(archive, into):
    with tarfile.open(archive) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))[0]
        paths = []
        for number, name in enumerate(manifest["Layers"]):
            stored = into / f"stored-{number}"
            with outer.extractfile(name) as source, open(stored, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
            start = open(stored, "rb").read(4)
            program = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(start[:2])
            path = into / f"layer-{number}"
            if program:
                with open(path, "wb") as out:
                    subprocess.run([program, "-d", "-c", stored], stdout=out, check=True)
                stored.unlink()
            else:
                stored.rename(path)
            paths.append(path)
        return paths


def digest(path):
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def main():
    into = pathlib.Path(sys.argv[1])
    plain = into / "plain"
    plain.mkdir()
    archive = sys.argv[2] if len(sys.argv) > 2 else ""
    layers = given_layers(archive, plain) if archive else own_layers(plain)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = json.dumps({
        "architecture": machine, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }).encode()
    manifest = [{"Config": "config.json", "RepoTags": ["bench:1"], "Layers": [f"{n}/layer.tar" for n in range(len(layers))]}]
    for form in ["plain", *PROGRAMS]:
        stored = into / form
        stored.mkdir(exist_ok=True)
        for layer in layers:
            if form != "plain":
                with open(layer, "rb") as source, open(stored / layer.name, "wb") as out:
                    subprocess.run(PROGRAMS[form], stdin=source, stdout=out, check=True)
        top = into / "top"
        top.mkdir()
        (top / "config.json").write_bytes(config)
        (top / "manifest.json").write_text(json.dumps(manifest))
        with tarfile.open(into / f"{form}.tar", "w", format=tarfile.GNU_FORMAT) as outer:
            for n, layer in enumerate(layers):
                outer.add(stored / layer.name, f"{n}/layer.tar")
            for name in ["config.json", "manifest.json"]:
                outer.add(top / name, name)
        shutil.rmtree(top)


main()
