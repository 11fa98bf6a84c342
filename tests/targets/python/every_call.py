"""Has an interpreter of 3.11 or later show every call, by a function that is to evaluate its frames and does nothing but call the
one that does it anyway (PEP 523). As docs/PYTHON.md has it."""

import ctypes, mmap, platform

api = ctypes.pythonapi
loop = ctypes.cast(api._PyEval_EvalFrameDefault, ctypes.c_void_p).value.to_bytes(8, "little")
if platform.machine() == "aarch64":
    code = bytes.fromhex("50000058 00021fd6") + loop  # ldr x16, loop; br x16
else:
    code = bytes.fromhex("48b8") + loop + bytes.fromhex("ffe0")  # movabs $loop, %rax; jmp *%rax
# It stays as long as the process: frames may be in it at any time.
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
page = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
assert page != ctypes.c_void_p(-1).value, "there is no memory"
ctypes.memmove(page, code, len(code))
failed = libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC)
assert not failed, "no memory may be made executable here"
api.PyInterpreterState_Get.restype = ctypes.c_void_p
api._PyInterpreterState_SetEvalFrameFunc(ctypes.c_void_p(api.PyInterpreterState_Get()), ctypes.c_void_p(page))
