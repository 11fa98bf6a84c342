"""Reads the Yocto layer with bitbake's own parser and installs its recipe: `yocto.py LAYER TARGET_ARCH DIST OUT`.

The classes and the configuration of OpenEmbedded are not here. Stubs stand for them that name the folders; so this shows that the
layer parses, that each file that it names is found and has the sum that it says, and what do_install puts where.
"""

import hashlib
import os
import re
import subprocess
import sys
import types

# The parser imports the client of a server that shares builds, which its package does not bring.
for name in ("hashserv", "hashserv.client"):
    sys.modules.setdefault(name, types.ModuleType(name))

import bb.data
import bb.data_smart
import bb.parse
import bb.siggen
import bb.utils

CLASSES = ("base", "systemd", "update-rc.d")
FOLDERS = """
sbindir = "/usr/sbin"
sysconfdir = "/etc"
systemd_system_unitdir = "/usr/lib/systemd/system"
PN = "${@bb.parse.vars_from_file(d.getVar('FILE', False),d)[0] or 'defaultpkgname'}"
THISDIR = "${@os.path.dirname(d.getVar('FILE'))}"
"""


def parse(file, stubs, layer, settings):
    data = bb.data.init()
    # What cooker.py says of recipes.
    data.setVar("__bbclasstype", "recipe")
    bb.parse.siggen = bb.siggen.init(data)
    data.setVar("BBPATH", f"{stubs}:{layer}")
    for name, value in settings.items():
        data.setVar(name, value)
    data.setVar("LAYERDIR", layer)
    data = bb.parse.handle(os.path.join(layer, "conf/layer.conf"), data, True)
    for name in ("EDGELAT_PROJECT", "EDGELAT_DIST"):
        data.setVar(name, settings.get(name) or data.getVar(name))
    data = bb.parse.handle(os.path.join(stubs, "conf/bitbake.conf"), data, True)
    return bb.parse.handle(file, data)[""]


def find(data, name):
    for folder in data.getVar("FILESEXTRAPATHS").split(":"):
        path = os.path.join(folder, name)
        if folder and os.path.exists(path):
            return path
    sys.exit(f"{name} of SRC_URI is in none of {data.getVar('FILESEXTRAPATHS')}")


def main(layer, arch, dist, out):
    layer, work, root = os.path.abspath(layer), os.path.abspath(f"{out}/work"), os.path.abspath(f"{out}/root")
    stubs = os.path.abspath(f"{out}/stubs")
    for folder in ("classes", "conf"):
        os.makedirs(f"{stubs}/{folder}", exist_ok=True)
    os.makedirs(work, exist_ok=True)
    for name in CLASSES:
        open(f"{stubs}/classes/{name}.bbclass", "w").close()
    with open(f"{stubs}/conf/bitbake.conf", "w") as file:
        file.write(FOLDERS)
    settings = {"TARGET_ARCH": arch, "EDGELAT_DIST": os.path.abspath(dist), "WORKDIR": work, "D": root}

    folder = f"{layer}/recipes-edgelat/edgelat"
    (recipe,) = [name for name in os.listdir(folder) if name.endswith(".bb")]
    data = parse(f"{folder}/{recipe}", stubs, layer, settings)
    for word in data.getVar("SRC_URI").split():
        name = word.removeprefix("file://")
        os.makedirs(os.path.dirname(f"{work}/{name}"), exist_ok=True)
        bb.utils.copyfile(find(data, name), f"{work}/{name}")
    for name, sum_of_it in re.findall(r"file://(\S+);md5=(\w+)", data.getVar("LIC_FILES_CHKSUM")):
        with open(f"{work}/{name}", "rb") as file:
            if hashlib.md5(file.read()).hexdigest() != sum_of_it:
                sys.exit(f"LIC_FILES_CHKSUM: {name} has changed")
    if not re.match(data.getVar("COMPATIBLE_HOST"), f"{arch}-poky-linux"):
        sys.exit(f"COMPATIBLE_HOST does not take {arch}")
    subprocess.run(["sh", "-euc", data.expand(data.getVar("do_install"))], check=True)

    # A recipe to append to, with what kernel.bbclass says.
    kernel = f"{stubs}/linux-yocto_6.12.bb"
    with open(kernel, "w") as file:
        file.write('EXTRA_OEMAKE = "PAHOLE=false"\n')
    append = f"{layer}/recipes-kernel/linux/linux-yocto_%.bbappend"
    data = parse(kernel, stubs, layer, settings | {"__BBAPPEND": append})
    for word in data.getVar("SRC_URI").split():
        find(data, word.removeprefix("file://"))
    if "PAHOLE" in data.getVar("EXTRA_OEMAKE") or "pahole-native" not in data.getVar("DEPENDS"):
        sys.exit("the kernel would be built without pahole")


main(*sys.argv[1:])
