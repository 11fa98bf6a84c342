/*
 * _dl_find_object for static musl programs.
 *
 * The unwinder that panics use comes from gcc's libgcc_eh.a, which Debian compiles for glibc: since gcc 12 it asks
 * glibc's _dl_find_object for the unwind table of an address, and gives up unwinding when the answer is no. musl
 * has no such function, but dl_iterate_phdr tells the same. Compiled into libunwind.a beside libgcc_eh's objects
 * (cross/musl-std).
 */
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stddef.h>

/* struct dl_find_object of glibc's <dlfcn.h>, architectures without dlfo_eh_dbase (x86_64, aarch64). */
struct found {
	unsigned long long flags;
	void *map_start;
	void *map_end;
	void *link_map;
	void *eh_frame; /* address of the PT_GNU_EH_FRAME segment */
	unsigned long long reserved[7];
};

struct search {
	uintptr_t pc;
	struct found *found;
};

int _dl_find_object(void *pc, struct found *found);

static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
	struct search *search = data;
	uintptr_t eh_frame = 0;
	int inside = 0;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + segment->p_vaddr;

		if (segment->p_type == PT_GNU_EH_FRAME)
			eh_frame = start;
		if (segment->p_type == PT_LOAD && search->pc - start < segment->p_memsz) {
			inside = 1;
			search->found->map_start = (void *)start;
			search->found->map_end = (void *)(start + segment->p_memsz);
		}
	}
	if (!inside || !eh_frame)
		return 0;
	search->found->flags = 0;
	search->found->link_map = NULL;
	search->found->eh_frame = (void *)eh_frame;
	return 1;
}

int _dl_find_object(void *pc, struct found *found)
{
	struct search search = { .pc = (uintptr_t)pc, .found = found };

	return dl_iterate_phdr(visit, &search) ? 0 : -1;
}

/*
 * libgcc_eh refers to these weakly and takes the presence of one as the presence of all. In a static program a weak
 * reference pulls nothing out of libc.a, so some would be missing and be called at address 0: refer strongly.
 */
__attribute__((used)) static const void *const all_or_none[] = {
	pthread_once,	      pthread_key_create,  pthread_getspecific, pthread_setspecific,
	pthread_mutex_lock,   pthread_mutex_unlock,
};
