/* What the kernel's DLM says of a lock, as read from a lockspace's device. */
#include "bytes.h"
#include "dlm-device.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static int fd = -1;
        DlmResult result = { 0 };
        int r;

        if (fd < 0)
                fd = memfd_create("result", MFD_CLOEXEC);
        g_assert_true(fd >= 0 && ftruncate(fd, 0) == 0);
        g_assert_cmpint(pwrite(fd, data, size, 0), ==, size);
        lseek(fd, 0, SEEK_SET);
        r = dlm_device_read(fd, &result);
        g_assert_true(r == 1 || r == -EBADMSG);
        g_assert_true(r < 0 || result.status <= 0);
        return 0;
}
