/*
 * Makes a volume of a UBI device, as large as it can be: `mkvol /dev/ubi0 NAME`. BusyBox as Debian builds it cannot.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <mtd/ubi-user.h>

int main(int argc, char **argv)
{
	struct ubi_mkvol_req request = { .vol_id = 0, .alignment = 1, .vol_type = UBI_DYNAMIC_VOLUME };
	char path[64];
	int device;

	if (argc != 3 || strlen(argv[2]) > UBI_MAX_VOLUME_NAME) {
		fprintf(stderr, "usage: mkvol /dev/ubiN NAME\n");
		return 2;
	}
	/* Free space in bytes. */
	const char *name = strrchr(argv[1], '/');
	name = name ? name + 1 : argv[1];
	long long blocks = 0, bytes = 0;
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/sys/class/ubi/%s/%s", name, i ? "eraseblock_size" : "avail_eraseblocks");
		FILE *file = fopen(path, "r");
		if (!file || fscanf(file, "%lld", i ? &bytes : &blocks) != 1) {
			perror(path);
			return 1;
		}
		fclose(file);
	}
	request.bytes = blocks * bytes;
	request.name_len = strlen(argv[2]);
	strcpy(request.name, argv[2]);
	device = open(argv[1], O_RDONLY);
	if (device < 0 || ioctl(device, UBI_IOCMKVOL, &request) < 0) {
		perror(argv[1]);
		return 1;
	}
	return 0;
}
