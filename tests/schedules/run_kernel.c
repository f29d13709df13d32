/* Runs one kernel on tensors from files and writes the last one back, without TVM's runtime.
 *
 * Arguments: CODE:BITS:DIMxDIM...:FILE for each tensor (codes as DLPack has them). The kernel's parallel
 * loops run here one task after the other.
 */
#include <dlpack/dlpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

typedef struct {
  void* sync_handle;
  int32_t num_task;
} ParallelEnv;
typedef int (*Task)(int, ParallelEnv*, void*);

static int launch(Task task, void* data, int count) {
  ParallelEnv env = {NULL, count > 0 ? count : 3};
  for (int id = 0; id < env.num_task; id++) {
    int failed = task(id, &env, data);
    if (failed) return failed;
  }
  return 0;
}

static void* allocate(int device, int id, uint64_t size, int code, int bits) {
  void* found = NULL;
  return posix_memalign(&found, 64, size ? size : 64) ? NULL : found;
}

static int release(int device, int id, void* pointer) {
  free(pointer);
  return 0;
}

/* The kernel calls these through pointers of this name. */
int (*__TVMBackendParallelLaunch)(Task, void*, int) = launch;
void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void*) = release;

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; i++) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

extern int __tvm_ffi_main(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result);

int main(int argc, char** argv) {
  int count = argc - 1;
  DLTensor* tensors = calloc(count, sizeof(DLTensor));
  TVMFFIAny* args = calloc(count, sizeof(TVMFFIAny));
  size_t size = 0;
  char* path = NULL;
  for (int i = 0; i < count; i++) {
    int code = atoi(strtok(argv[i + 1], ":")), bits = atoi(strtok(NULL, ":"));
    char* dims = strtok(NULL, ":");
    path = strtok(NULL, ":");
    int64_t* shape = calloc(8, sizeof(int64_t));
    int rank = 0;
    size = bits / 8;
    for (char* dim = strtok(dims, "x"); dim; dim = strtok(NULL, "x")) {
      shape[rank] = atoll(dim);
      size *= shape[rank++];
    }
    int64_t* strides = calloc(8, sizeof(int64_t));
    for (int axis = rank - 1, step = 1; axis >= 0; step *= shape[axis--]) strides[axis] = step;
    void* data = allocate(1, 0, size, 0, 0);
    FILE* file = fopen(path, "rb");
    if (!file || fread(data, 1, size, file) != size) return 2;
    fclose(file);
    tensors[i] = (DLTensor){data, {kDLCPU, 0}, rank, {code, bits, 1}, shape, strides, 0};
    args[i].type_index = kTVMFFIDLTensorPtr;
    args[i].v_ptr = &tensors[i];
  }
  TVMFFIAny result = {0};
  int failed = __tvm_ffi_main(NULL, args, count, &result);
  if (failed) return 3;
  FILE* file = fopen(path, "wb");
  return fwrite(tensors[count - 1].data, 1, size, file) == size && !fclose(file) ? 0 : 4;
}
