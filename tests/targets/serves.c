/* A file system that serves one file: `serves FILE FOLDER` mounts FOLDER with a copy of FILE,
 * called `image`, and answers until it is killed. While it is stopped, users of the file wait.
 * Requests are those of linux/fuse.h, version 7.31. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER 1
#define IMAGE 2

static char request[1 << 20];
static char *bytes;
static off_t size;
static int device;

static void answer(const struct fuse_in_header *in, int error, const void *data, size_t length)
{
    static char reply[1 << 20];
    struct fuse_out_header out = { .len = sizeof(out) + length, .error = error, .unique = in->unique };
    memcpy(reply, &out, sizeof(out));
    if (length) memcpy(reply + sizeof(out), data, length);
    if (write(device, reply, out.len) < 0 && errno != ENOENT) perror("answer");
}

static struct fuse_attr attributes(uint64_t node)
{
    struct fuse_attr attr = { .ino = node, .nlink = 1, .mtime = 1, .ctime = 1, .blksize = 4096 };
    attr.mode = node == FOLDER ? S_IFDIR | 0755 : S_IFREG | 0755;
    attr.size = node == FOLDER ? 0 : (uint64_t)size;
    attr.blocks = (attr.size + 511) / 512;
    return attr;
}

static void serve(const struct fuse_in_header *in, const void *argument)
{
    switch (in->opcode) {
    case FUSE_INIT: {
        struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = 31, .max_readahead = 1 << 17,
                                     .max_write = 1 << 16 };
        answer(in, 0, &out, sizeof(out));
        break;
    }
    case FUSE_LOOKUP: {
        /* Attributes are valid for a moment only, so that they are requested repeatedly. */
        struct fuse_entry_out out = { .nodeid = IMAGE, .entry_valid = 1, .attr = attributes(IMAGE) };
        if (strcmp(argument, "image"))
            answer(in, -ENOENT, NULL, 0);
        else
            answer(in, 0, &out, sizeof(out));
        break;
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out out = { .attr = attributes(in->nodeid) };
        answer(in, 0, &out, sizeof(out));
        break;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out out = { .open_flags = FOPEN_KEEP_CACHE };
        answer(in, 0, &out, sizeof(out));
        break;
    }
    case FUSE_READ: {
        const struct fuse_read_in *read = argument;
        uint64_t left = read->offset < (uint64_t)size ? (uint64_t)size - read->offset : 0;
        answer(in, 0, bytes + read->offset, read->size < left ? read->size : left);
        break;
    }
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_STATFS:
    case FUSE_ACCESS: {
        struct fuse_statfs_out out = { .st = { .bsize = 4096, .namelen = 255 } };
        answer(in, 0, &out, in->opcode == FUSE_STATFS ? sizeof(out) : 0);
        break;
    }
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT: break;
    default: answer(in, -ENOSYS, NULL, 0);
    }
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    int file = open(argv[1], O_RDONLY);
    struct stat stat;
    if (file < 0 || fstat(file, &stat)) fail(argv[1]);
    size = stat.st_size;
    bytes = malloc(size);
    if (!bytes || read(file, bytes, size) != size) fail(argv[1]);
    device = open("/dev/fuse", O_RDWR);
    if (device < 0) fail("/dev/fuse");
    char options[128];
    snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (mount("serves", argv[2], "fuse", 0, options)) fail(argv[2]);
    puts("mounted");
    fflush(stdout);
    for (;;) {
        ssize_t length = read(device, request, sizeof(request));
        if (length < 0 && errno == ENODEV) return 0;
        if (length < (ssize_t)sizeof(struct fuse_in_header)) continue;
        serve((struct fuse_in_header *)request, request + sizeof(struct fuse_in_header));
    }
}
